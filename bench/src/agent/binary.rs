//! A program as a file: what it is built for, how, and how large it is.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// What a Linux program's headers tell (ELF; `elf.h` has the numbers).
#[derive(Debug, PartialEq)]
pub(crate) struct Binary {
    pub(crate) machine: &'static str,
    /// Whether it needs no shared library.
    pub(crate) is_static: bool,
    /// Whether its symbols were removed.
    pub(crate) is_stripped: bool,
    pub(crate) bytes: u64,
}

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let linked = if self.is_static { "static" } else { "dynamic" };
        let symbols = if self.is_stripped {
            "stripped"
        } else {
            "with symbols"
        };
        write!(f, "{}, {linked}, {symbols}, {} bytes", self.machine, self.bytes)
    }
}

impl Binary {
    /// Reads a program's headers.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| {
            format!(
                "there is no agent at {}: cargo build --profile dist -p headwater-agent",
                path.display()
            )
        })?;
        Self::parse(&bytes).with_context(|| format!("{} is no program for Linux", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(
            bytes.starts_with(b"\x7fELF") && bytes.get(5) == Some(&1),
            "it does not begin as a little-endian ELF file"
        );
        let is_64 = bytes.get(4) == Some(&2);
        let number = |at: usize, size: usize| -> Result<usize> {
            let field = bytes.get(at..at + size).context("it is cut off")?;
            Ok(field
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | usize::from(*byte)))
        };
        // Offsets of e_machine, e_phoff, e_shoff, e_phentsize, e_phnum, e_shentsize and e_shnum.
        let (programs, sections) = if is_64 {
            (
                (number(32, 8)?, number(54, 2)?, number(56, 2)?),
                (number(40, 8)?, number(58, 2)?, number(60, 2)?),
            )
        } else {
            (
                (number(28, 4)?, number(42, 2)?, number(44, 2)?),
                (number(32, 4)?, number(46, 2)?, number(48, 2)?),
            )
        };
        let types = |(offset, size, count): (usize, usize, usize), field: usize| {
            (0..count)
                .map(|index| number(offset + index * size + field, 4))
                .collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            machine: match number(18, 2)? {
                40 => "ARM",
                62 => "x86-64",
                183 => "aarch64",
                243 => "RISC-V",
                _ => "another machine",
            },
            // PT_INTERP names the program that loads shared libraries.
            is_static: !types(programs, 0)?.contains(&3),
            // SHT_SYMTAB.
            is_stripped: !types(sections, 4)?.contains(&2),
            bytes: bytes.len() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_is_told() {
        let own = Binary::read(&std::env::current_exe().unwrap()).unwrap();
        let machine = match std::env::consts::ARCH {
            "x86_64" => "x86-64",
            "aarch64" => "aarch64",
            other => panic!("{other} is not known here"),
        };
        let is_static = cfg!(target_feature = "crt-static");
        assert_eq!(
            (own.machine, own.is_static, own.is_stripped),
            (machine, is_static, false)
        );
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_refused() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in [0, 4, 20, 63] {
            assert!(Binary::parse(&own[..length]).is_err(), "{length} bytes");
        }
        assert!(Binary::parse(b"#!/bin/sh\n").is_err());
    }
}

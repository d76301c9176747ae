//! Which registers are read in one request. Pure.

use super::register::Register;
use crate::config::ModbusTable;

/// What one request asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    pub(super) table: ModbusTable,
    pub(super) address: u16,
    pub(super) count: u16,
    /// The values in it, by address.
    pub(super) registers: Vec<Register>,
}

/// The requests that read all registers: neighbours in one, across gaps of at most `max_gap`, as long as it has at most
/// `max_registers` (or sixteen times as many coils).
pub(super) fn plan(mut registers: Vec<Register>, max_registers: u16, max_gap: u16) -> Vec<Block> {
    registers.sort_by_key(|register| (register.table, register.address, register.count));
    let mut blocks: Vec<Block> = Vec::new();
    for register in registers {
        let (most, gap) = match register.table {
            ModbusTable::Holding | ModbusTable::Input => (max_registers, max_gap),
            ModbusTable::Coil | ModbusTable::Discrete => {
                (max_registers.saturating_mul(16), max_gap.saturating_mul(16))
            }
        };
        let end = end(&register);
        if let Some(block) = blocks.last_mut()
            && block.table == register.table
            && u32::from(register.address) <= block.end() + u32::from(gap)
            && end - u32::from(block.address) <= u32::from(most)
        {
            // At most 2,000 by the condition.
            block.count = (end.max(block.end()) - u32::from(block.address)) as u16;
            block.registers.push(register);
            continue;
        }
        blocks.push(Block::of(vec![register]));
    }
    blocks
}

fn end(register: &Register) -> u32 {
    u32::from(register.address) + u32::from(register.count)
}

impl Block {
    /// A request for these, which are by address and near each other.
    fn of(registers: Vec<Register>) -> Self {
        let address = registers[0].address;
        let end = registers.iter().map(end).max().unwrap_or_default();
        Self {
            table: registers[0].table,
            address,
            count: (end - u32::from(address)) as u16,
            registers,
        }
    }

    fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.count)
    }

    /// In two, at its widest gap, where there is none in the middle: when a device refuses a request, one of its registers, or one
    /// between them, is the reason. `None` for a single register.
    pub(super) fn split(&self) -> Option<(Self, Self)> {
        if self.registers.len() < 2 {
            return None;
        }
        let gap =
            |at: &usize| u32::from(self.registers[*at].address).saturating_sub(end(&self.registers[at - 1]));
        let middle = self.registers.len() / 2;
        let at = (1..self.registers.len())
            .max_by_key(|at| (gap(at), std::cmp::Reverse(at.abs_diff(middle))))
            .unwrap_or(middle);
        let (low, high) = self.registers.split_at(at);
        Some((Self::of(low.to_vec()), Self::of(high.to_vec())))
    }

    /// Each of its registers, with its words among those of an answer.
    pub(super) fn values<'a>(&'a self, words: &'a [u16]) -> impl Iterator<Item = (&'a Register, &'a [u16])> {
        self.registers.iter().map(move |register| {
            let from = usize::from(register.address - self.address);
            let words = words.get(from..from + usize::from(register.count));
            (register, words.unwrap_or_default())
        })
    }
}

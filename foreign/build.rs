//! Compiles Sparkplug's payload with protox, where it is asked for.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "sparkplug")]
    {
        let descriptors = protox::compile(["sparkplug.proto"], ["proto"])?;
        prost_build::Config::new().compile_fds(descriptors)?;
    }
    Ok(())
}

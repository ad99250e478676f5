//! The operator as it is, but for one feature: its rooms talk to a scripted cloud.

fn main() -> anyhow::Result<()> {
    constellation_operator::cli::main()
}

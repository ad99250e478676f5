//! The operator.

fn main() -> anyhow::Result<()> {
    constellation_operator::cli::main()
}

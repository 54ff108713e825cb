//! The flags that cargo and libtest pass to every bench, beside the bench's own.
//!
//! Most of them have no effect: they must be accepted, or `cargo bench` and `cargo test --benches` would fail.
#[derive(clap::Args)]
pub(crate) struct FromCargo {
    /// Name what there is, and do nothing
    #[arg(long, hide = true)]
    pub(crate) list: bool,
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    #[arg(long, hide = true)]
    pub(crate) test: bool,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    test_threads: Option<u16>,
}

impl FromCargo {
    /// `cargo test --benches` passes no flag at all, or `--test`: no time for a measurement.
    pub(crate) fn is_test(&self) -> bool {
        self.test || std::env::args_os().len() == 1
    }
}

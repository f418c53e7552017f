//! The binary: hands over to the command line and ends with its exit code.

/// A request makes and frees about eight pieces of memory, some of them large; this allocator does so at a third of the
/// instructions of the system's. Without huge pages, which would make an idle process twice as large.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    weir::cli::main()
}

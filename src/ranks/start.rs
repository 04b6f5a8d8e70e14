//! Whether, and by what, this process was started with others.

use anyhow::Result;

use super::Ranks;

/// What launchers of MPI processes say to these of their number, and of how many there are.
const NUMBERS: [(&str, &str); 3] = [
    ("Open MPI", "OMPI_COMM_WORLD_SIZE"),
    ("MPICH or Intel MPI", "PMI_SIZE"),
    ("MVAPICH", "MV2_COMM_WORLD_SIZE"),
];

/// And what those say that leave the number of processes to the library.
const STARTED: [(&str, &str); 2] = [("PMIx", "PMIX_RANK"), ("PMI", "PMI_RANK")];

/// The launcher that has started this process, and how many it has started, where that is told.
fn started_by() -> Option<(&'static str, Option<usize>)> {
    let value = |name: &str| std::env::var(name).ok();
    let numbered = NUMBERS.iter().find_map(|(by, name)| Some((*by, value(name)?.parse().ok())));
    numbered.or_else(|| STARTED.iter().find_map(|(by, name)| value(name).map(|_| (*by, None))))
}

/// Checksum of this program's file, of which all ranks must have the same; 0 where it cannot be read.
pub fn program() -> u32 {
    std::env::current_exe().and_then(std::fs::read).map_or(0, |bytes| crc32c::crc32c(&bytes))
}

/// The processes that this one was started with: alone where nothing says that there are others.
///
/// # Errors
/// There are, and this build cannot talk to them.
pub fn start() -> Result<Ranks> {
    #[cfg(feature = "mpi")]
    if started_by().is_some() {
        return super::mpi::start();
    }
    #[cfg(not(feature = "mpi"))]
    if let Some((by, Some(processes))) = started_by().filter(|(_, number)| number.is_some_and(|n| n > 1)) {
        anyhow::bail!(
            "{by} has started {processes} processes, but this inazuma was built without MPI: build it with `--features mpi`"
        );
    }
    Ok(Ranks::default())
}

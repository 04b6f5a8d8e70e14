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

/// What they say to these of which one each is.
const RANKS: [&str; 4] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "PMIX_RANK"];

/// Which one of a launcher's processes this is, as far as that is told before they talk to each other.
pub fn started_as() -> Option<usize> {
    RANKS.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// The launcher that has started this process, and how many it has started, where that is told.
fn started_by() -> Option<(&'static str, Option<usize>)> {
    let value = |name: &str| std::env::var(name).ok();
    let numbered = NUMBERS.iter().find_map(|(by, name)| Some((*by, value(name)?.parse().ok())));
    numbered.or_else(|| STARTED.iter().find_map(|(by, name)| value(name).map(|_| (*by, None))))
}

/// The processes that this one was started with: alone where nothing says that there are others.
///
/// # Errors
/// There are, and this build cannot talk to them.
pub fn start() -> Result<Ranks> {
    // One that is alone needs nobody: then a script that a launcher has started may start us more than once.
    #[cfg(feature = "mpi")]
    if started_by().is_some_and(|(_, processes)| processes != Some(1)) {
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

//! The simulation: model PBXs write captured calls as rows — late, twice, out of order, in bursts, through a lagging
//! replica, with purges and ids that begin anew —, endpoints answer with every fault, the agent is killed anywhere and its
//! state is lost; all in virtual time and from one seed. After the storm every call is at every endpoint, in the revision
//! that the rows tell of, once by its key, in order, and nothing is left over.
//!
//! `SIM_SEEDS=5000` runs that many, `SIM_SEED=17` that one, with everything that happened in it on the terminal: a seed goes
//! the same way on every machine. `SIM_TRACES=DIR` keeps what happened in each.

#[allow(dead_code, reason = "the integration tests use the rest")]
#[path = "support/expected.rs"]
mod captures;
#[path = "simulate/life.rs"]
mod life;
#[path = "simulate/oracle.rs"]
mod oracle;
#[path = "simulate/pbx.rs"]
mod pbx;
#[path = "simulate/sinks.rs"]
mod sinks;
#[path = "simulate/table.rs"]
mod table;
#[path = "simulate/world.rs"]
mod world;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use life::End;
use pbx::SECOND;
use world::World;

/// `make test` asks for more.
const SEEDS: u64 = 12;
/// Lives of one agent at most.
const LIVES: usize = 400;

fn run(world: &mut World) {
    if world.plan.start_now {
        // some of the calls are over before the agent is there
        let later = world.rng.i64(60..400) * SECOND;
        world.pass(later);
        world.t0 = Some(world.time() + world.plan.database_ahead);
    }
    for _ in 0..LIVES {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        // while a blocking task runs, time passes only when it is told to
        let (end, wait) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || {
            let _ = wait.recv();
        });
        let ended = runtime.block_on(life::live(world));
        drop(end);
        drop(runtime);
        match ended {
            Ok(End::Done) => return oracle::check(world),
            Ok(End::Killed) => {}
            Ok(End::StateLost) => {
                std::fs::remove_dir_all(world.dir.join("state")).expect("the state goes");
                world.lose_state();
            }
            Err(e) => return world.problem(format!("the agent ended by itself: {e}")),
        }
        let down = [0, world.rng.i64(0..30), world.rng.i64(0..300)][world.rng.usize(..3)] * SECOND;
        for _ in 0..world.rng.usize(1..4) {
            world.pass(down / 3);
            world.trouble();
        }
    }
    world.problem("it dies again and again".to_owned());
}

/// What went wrong, and everything that happened.
fn try_seed(seed: u64) -> Result<(), (Vec<String>, Vec<String>)> {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a directory");
    let mut world = World::new(seed, dir.path().to_path_buf());
    let done = std::panic::catch_unwind(AssertUnwindSafe(|| run(&mut world)));
    if done.is_err() {
        world.problem("it panicked, as told above".to_owned());
    }
    let World { problems, trace, .. } = world;
    if let Ok(dir) = std::env::var("SIM_TRACES") {
        std::fs::write(Path::new(&dir).join(seed.to_string()), trace.join("\n")).expect("a trace");
    }
    if problems.is_empty() { Ok(()) } else { Err((problems, trace)) }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn no_call_is_lost_and_none_counted_twice() {
    if std::env::var("SIM_LOG").is_ok() {
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_test_writer().init();
    }
    if let Some(seed) = number("SIM_SEED") {
        if let Err((problems, trace)) = try_seed(seed) {
            panic!("{}\nSIM_SEED={seed}:\n{}", trace.join("\n"), problems.join("\n"));
        }
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let first = number("SIM_FIRST").unwrap_or(1);
    let next = AtomicU64::new(first);
    let failed: Mutex<Vec<(u64, Vec<String>)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    if let Err((problems, _)) = try_seed(seed) {
                        println!("SIM_SEED={seed} fails: {}", problems[0]);
                        failed.lock().expect("no one died with it").push((seed, problems));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("no one died with it");
    failed.sort();
    let told: Vec<String> = failed
        .iter()
        .take(10)
        .map(|(seed, problems)| format!("SIM_SEED={seed}: {} problems, the first: {}", problems.len(), problems[0]))
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {seeds} seeds fail. `SIM_SEED=N cargo test --test simulate` tells what happened in one:\n{}",
        failed.len(),
        told.join("\n")
    );
}

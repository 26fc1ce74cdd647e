//! A disk that runs full under the running agent: a small tmpfs, which only root can mount.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use callferry::config::DatabaseKind;
use callferry::store::{BALLAST, BALLAST_FILE};

use super::scene::Scene;
use crate::support::database::TestDatabase;

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir(at).expect("a directory");
        let size = format!("size={megabytes}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        if mounted.is_ok_and(|o| o.status.success()) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("\n!!! a tmpfs cannot be mounted (root only): the test of a full disk is NOT RUN\n");
        None
    }

    /// Leaves this many bytes free.
    fn fill(&self, leave: u64) {
        let disk = rustix::fs::statvfs(&self.0).expect("statvfs");
        let free = disk.f_bavail * disk.f_frsize;
        let mut bytes = std::fs::read(self.filler()).unwrap_or_default();
        bytes.resize(bytes.len() + usize::try_from(free.saturating_sub(leave)).expect("small"), 1);
        // to the last byte that fits
        let _ = std::fs::write(self.filler(), bytes);
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_what_is_in_flight_is_recorded() {
    let place = tempfile::tempdir().expect("a directory");
    let Some(disk) = SmallDisk::mount(&place.path().join("state"), 96) else { return };
    let Some(database) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    let user = database.place.user.clone();
    let state = disk.0.display().to_string();
    let mut scene = Scene::start(database, &user, &[("STATE_DIR", &state), ("WEBHOOK_BATCH_SIZE", "5")]).await;
    let ballast = disk.0.join(BALLAST_FILE);
    scene.until("room kept in reserve", async || std::fs::metadata(&ballast).is_ok_and(|m| m.len() == BALLAST)).await;

    // calls wait for a receiver that is down; then the disk is filled to the last byte
    let (down, refused) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    scene.receiver.refuse_while(Arc::clone(&down), Arc::clone(&refused));
    scene.write(300).await;
    scene
        .until("the calls in the outbox", async || {
            scene.metric("callferry_deliveries_pending{sink=\"webhook\"}").await.is_some_and(|n| n >= 300.0)
        })
        .await;
    disk.fill(0);
    let told = scene.complaints().len();
    scene.write(300).await;
    scene.unready("full").await;
    assert!(std::fs::metadata(&ballast).is_ok_and(|m| m.len() == 0), "the room kept in reserve is given up");
    scene.until("the metric", async || scene.metric("callferry_reading_stopped").await == Some(1.0)).await;

    // the receiver is back: what waited is delivered and recorded, on a full disk
    let before = scene.receiver.received.all().len();
    down.store(false, Ordering::SeqCst);
    scene.receiver.received.wait(super::scene::LIMIT * 2, "what waited", |r| r.upserted().len() >= 301).await;
    scene
        .until("their record", async || {
            scene.metric("callferry_deliveries_pending{sink=\"webhook\"}").await == Some(0.0)
        })
        .await;
    let delivered = scene.receiver.received.all().len() - before;
    assert_eq!(delivered, 300, "each once: it was recorded that they were taken");
    assert_eq!(scene.get("/readyz").await.0, 503);
    let complaints = scene.complaints();
    assert!(complaints.len() - told <= 5, "a few lines, not one a second: {complaints:#?}");
    assert!(scene.agent.is_running());

    // killed on the full disk, it starts on it again, still refuses to read, and sends nothing twice
    scene.agent.kill();
    scene.agent.start();
    scene.unready("full").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.receiver.received.all().len() - before, 300);

    // where not even its own files find room it does not start, and says why
    scene.agent.kill();
    disk.fill(0);
    let run = scene.agent.command(&["run"]).output().expect("a run");
    let text = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.code() == Some(1) && text.contains("make room") && text.contains(&state), "{text}");

    // room again: everything goes on by itself
    std::fs::remove_file(disk.filler()).expect("the filler");
    scene.agent.start();
    scene.arrived().await;
    scene.ready().await;
    scene.until("the reserve", async || std::fs::metadata(&ballast).is_ok_and(|m| m.len() == BALLAST)).await;
    scene.write(5).await;
    scene.arrived().await;
    assert!(scene.agent.terminate(Duration::from_secs(15)).success());
    scene.tell("disk of the state full (tmpfs of 96 MB)", "full, killed, full, room again");
}

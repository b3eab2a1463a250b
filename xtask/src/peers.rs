//! `cargo xtask peers`: builds llama.cpp, the engine that speed and quality are compared with.
//!
//! A comparison is worth what its other side is worth, so the peer is a pinned version built on the machine that it
//! runs on, for that machine's instruction set. Its source comes from the Python package `llama-cpp-python`, which
//! carries a whole tree under `vendor/`; everything lands in `target/peers/`.

use crate::{process, workspace};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Python package that carries llama.cpp, and its version.
pub const PACKAGE: &str = "llama-cpp-python";
/// The pinned version of [`PACKAGE`].
pub const VERSION: &str = "0.3.36";
/// SHA-256 of the source archive of that version.
const ARCHIVE_SHA256: &str = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e";

/// The programs of llama.cpp that the comparisons use.
const TOOLS: [&str; 3] = ["llama-bench", "llama-perplexity", "llama-quantize"];

/// Programs that the build needs, each with the Debian packages that bring it.
const BUILD_TOOLS: [(&str, &[&str]); 4] = [
    ("cmake", &["cmake"]),
    ("ninja", &["ninja-build"]),
    ("clang++", &["clang", "libomp-dev"]),
    ("python3", &["python3", "python3-pip"]),
];

/// How llama.cpp is configured: as its own documentation recommends for a CPU, without what the comparisons never call.
const CONFIGURATION: [&str; 12] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_C_COMPILER=clang",
    "-DCMAKE_CXX_COMPILER=clang++",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DGGML_OPENMP=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_MTMD=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
];

/// How to build.
#[derive(Debug, Args)]
pub struct Options {
    /// Build again even if the programs are there
    #[arg(long)]
    rebuild: bool,
}

/// Where the programs of llama.cpp are, for the commands that run them.
#[derive(Debug, Args)]
pub struct LlamaCpp {
    /// Folder with llama-bench, llama-perplexity and llama-quantize [default: what `cargo xtask peers` built]
    #[arg(long, value_name = "FOLDER")]
    llama_bin: Option<PathBuf>,
}

impl LlamaCpp {
    /// A command that runs `tool`, one of llama.cpp's programs.
    ///
    /// # Errors
    /// The program is not there; says how to get it.
    pub fn tool(&self, tool: &str) -> Result<Command> {
        let path = self.llama_bin.clone().unwrap_or_else(|| build_folder().join("bin")).join(tool);
        ensure!(path.is_file(), "{} is missing; `cargo xtask peers` builds it", path.display());
        Ok(Command::new(path))
    }
}

fn home() -> PathBuf {
    workspace::target().join("peers")
}

fn source_folder() -> PathBuf {
    home().join(format!("llama_cpp_python-{VERSION}"))
}

fn build_folder() -> PathBuf {
    home().join(format!("llama.cpp-{VERSION}"))
}

/// Downloads, checks, unpacks and builds llama.cpp, whatever of that is still to be done.
///
/// # Errors
/// A missing build tool (with what to install), a failed download, an archive that is not the pinned one, a failed build.
pub fn run(options: &Options) -> Result<()> {
    let bin = build_folder().join("bin");
    if !options.rebuild && TOOLS.iter().all(|tool| bin.join(tool).is_file()) {
        println!("{}", bin.display());
        return Ok(());
    }
    install_build_tools()?;
    unpack(&download()?)?;
    let vendor = source_folder().join("vendor/llama.cpp");
    process::run(
        Command::new("cmake")
            .args(["-G", "Ninja", "-S"])
            .arg(&vendor)
            .arg("-B")
            .arg(build_folder())
            .args(CONFIGURATION),
    )?;
    process::run(Command::new("cmake").arg("--build").arg(build_folder()).arg("--target").args(TOOLS))?;
    println!("{}", bin.display());
    Ok(())
}

/// Makes sure of the build tools: installs them where that needs no question (root on Debian), else says what to do.
fn install_build_tools() -> Result<()> {
    let missing: Vec<_> =
        BUILD_TOOLS.iter().filter(|(program, _)| process::find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs = missing.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(", ");
    let packages: Vec<&str> = missing.iter().flat_map(|(_, packages)| packages.iter().copied()).collect();
    if process::find("apt-get").is_none() || !is_root() {
        bail!("building llama.cpp needs {programs}; on Debian: sudo apt-get install {}", packages.join(" "));
    }
    process::run(Command::new("apt-get").args(["update", "--quiet"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&packages);
    process::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// The pinned source archive, from an earlier run or through pip.
fn download() -> Result<PathBuf> {
    let archive = home().join(format!("llama_cpp_python-{VERSION}.tar.gz"));
    if !archive.is_file() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "--dest"]).arg(home());
        process::run(pip.arg(format!("{PACKAGE}=={VERSION}")))?;
    }
    let bytes = fs::read(&archive).with_context(|| format!("pip left no {}", archive.display()))?;
    let found = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    ensure!(
        found == ARCHIVE_SHA256,
        "{} is not the pinned archive: its SHA-256 is {found}, expected {ARCHIVE_SHA256}; remove it and try again",
        archive.display()
    );
    Ok(archive)
}

/// Unpacks the archive beside itself; the folder appears under its name only when it is complete.
fn unpack(archive: &Path) -> Result<()> {
    if source_folder().is_dir() {
        return Ok(());
    }
    let staging = home().join("unpacking");
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    fs::create_dir_all(&staging)?;
    process::run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&staging))?;
    fs::rename(staging.join(format!("llama_cpp_python-{VERSION}")), source_folder())?;
    fs::remove_dir(&staging).context("the archive holds more than one folder")
}

//! `cargo xtask peers`: builds the engines that speed and quality are compared with.
//!
//! A comparison is worth what its other side is worth, so a peer is a pinned version built on the machine that it runs
//! on, for that machine's instruction set. Sources come from Python packages that carry a whole tree under `vendor/`;
//! everything lands in `target/peers/`. What differs between peers is in [`PEERS`], and nowhere else.

use crate::contestants::MODELS;
use crate::{process, workspace};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An engine to compare with.
#[derive(Debug)]
pub struct Peer {
    /// What people call it.
    pub name: &'static str,
    /// The Python package whose source archive carries it.
    pub package: &'static str,
    /// The pinned version of the package.
    pub version: &'static str,
    /// SHA-256 of the source archive of that version.
    archive_sha256: &'static str,
    /// What it is built with, each in a folder of its own. Compilers differ in the instructions that they let a
    /// peer use and in the threading runtime that they bring; the first is used where speed does not count.
    pub compilers: &'static [Compiler],
    /// Files that the archive lacks, by their paths in the source, and what is in them.
    missing_files: &'static [(&'static str, &'static str)],
    /// Settings of cmake beyond [`CONFIGURATION`].
    configuration: &'static [&'static str],
    /// The programs that the comparisons use.
    tools: &'static [&'static str],
}

/// A C and a C++ compiler.
#[derive(Debug, PartialEq, Eq)]
pub struct Compiler {
    /// The C compiler, whose name is used for both.
    pub name: &'static str,
    cplusplus: &'static str,
    /// A header that goes before every source; may be empty.
    header: &'static str,
}

/// With LLVM's OpenMP runtime. Version 14, Debian 12's, has other names for what later ones and gcc define where a
/// machine has tiles, and llama.cpp would not use them.
const CLANG: Compiler = Compiler {
    name: "clang",
    cplusplus: "clang++",
    header: "\
#if defined(__AMXTILE__) && !defined(__AMX_TILE__)
#define __AMX_TILE__ 1
#endif
#if defined(__AMXINT8__) && !defined(__AMX_INT8__)
#define __AMX_INT8__ 1
#endif
#if defined(__AMXBF16__) && !defined(__AMX_BF16__)
#define __AMX_BF16__ 1
#endif
",
};

/// With GNU's OpenMP runtime. Version 12.2, Debian 12's, tells its optimiser that loading a tile configuration reads 8
/// bytes, not 64, and so leaves out the rest: llama.cpp crashes where a machine has tiles. Elsewhere it is a second
/// opinion.
const GCC: Compiler = Compiler { name: "gcc", cplusplus: "g++", header: "" };

/// The engine that everyone knows.
pub const LLAMA_CPP: Peer = Peer {
    name: "llama.cpp",
    package: "llama-cpp-python",
    version: "0.3.36",
    archive_sha256: "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    compilers: &[CLANG, GCC],
    missing_files: &[],
    configuration: &[
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_MTMD=OFF",
        "-DLLAMA_BUILD_UI=OFF",
        "-DLLAMA_OPENSSL=OFF",
    ],
    tools: &["llama-bench", "llama-batched-bench", "llama-completion", "llama-perplexity", "llama-quantize"],
};

/// Its fork that is known for speed on CPUs.
pub const IK_LLAMA_CPP: Peer = Peer {
    name: "ik_llama.cpp",
    package: "ik-llama-cpp-python",
    version: "0.1.5",
    archive_sha256: "33c67eb99e4dcab5e611050433243815709b8b3067753f9ce18375013cf002ad",
    // Debian 12's clang 14 refuses its source, which has const members without a constructor.
    compilers: &[GCC],
    missing_files: &[(
        "common/cmake/build-info-gen-cpp.cmake",
        "include(cmake/build-info.cmake)\nconfigure_file(common/build-info.cpp.in common/build-info.cpp)\n",
    )],
    // Flash attention over K/V in f16, bf16 and q8_0; the other types take most of the build and are never used.
    configuration: &["-DLLAMA_BUILD_EXAMPLES=ON", "-DGGML_IQK_FA_ALL_QUANTS=OFF"],
    tools: &["llama-bench", "llama-batched-bench", "llama-cli"],
};

/// All peers, in the order in which tables show them.
pub const PEERS: [&Peer; 2] = [&LLAMA_CPP, &IK_LLAMA_CPP];

/// Programs that the builds need, each with the Debian packages that bring it.
const BUILD_TOOLS: [(&str, &[&str]); 5] = [
    ("cmake", &["cmake"]),
    ("ninja", &["ninja-build"]),
    ("clang++", &["clang", "libomp-dev"]),
    ("g++", &["g++"]),
    ("python3", &["python3", "python3-pip"]),
];

/// How every peer is configured: as its documentation recommends for a CPU, without what the comparisons never call.
const CONFIGURATION: [&str; 6] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DGGML_OPENMP=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
];

/// The program that serves, which every peer has. It is built for those who compare servers only (`--servers`): it takes
/// as long as everything else together.
pub const SERVER: &str = "llama-server";

/// What the build of [`SERVER`] changes in [`CONFIGURATION`]; objects of the other programs stay as they are.
const SERVER_CONFIGURATION: [&str; 1] = ["-DLLAMA_BUILD_SERVER=ON"];

/// What to build.
#[derive(Debug, Args)]
pub struct Options {
    /// Only these peers [default: all]
    #[arg(value_name = "PEER", value_parser = by_name)]
    peers: Vec<&'static Peer>,
    /// Build again even if the programs are there
    #[arg(long)]
    rebuild: bool,
    /// Build their servers as well
    #[arg(long)]
    servers: bool,
    /// Make the models of the speed comparison as well (6 GB)
    #[arg(long)]
    models: bool,
}

/// Where the programs of the peers are, for the commands that run them.
#[derive(Debug, Default, Args)]
pub struct Programs {
    /// Folder with the programs of a peer, for all its compilers (may be given once for each peer) [default: what
    /// `cargo xtask peers` built]
    #[arg(long = "peer-bin", value_name = "PEER=FOLDER", value_parser = folder_of_peer)]
    folders: Vec<(&'static Peer, PathBuf)>,
}

impl Programs {
    /// A command that runs `tool`, one of the peer's programs.
    ///
    /// # Errors
    /// The program is not there; says how to get it.
    pub fn tool(&self, peer: &Peer, tool: &str) -> Result<Command> {
        self.tool_of(peer, &peer.compilers[0], tool)
    }

    /// The same, of the build with one of the peer's compilers.
    ///
    /// # Errors
    /// Those of [`Programs::tool`].
    pub fn tool_of(&self, peer: &Peer, compiler: &Compiler, tool: &str) -> Result<Command> {
        let given = self.folders.iter().find(|(of, _)| of.name == peer.name);
        let folder = given.map_or_else(|| peer.programs(compiler), |(_, folder)| folder.clone());
        let path = folder.join(tool);
        let flag = if tool == SERVER { " --servers" } else { "" };
        ensure!(path.is_file(), "{} is missing; `cargo xtask peers{flag}` builds it", path.display());
        Ok(Command::new(path))
    }
}

/// The peer that is called so.
fn by_name(name: &str) -> Result<&'static Peer, String> {
    let names = || PEERS.map(|peer| peer.name).join(", ");
    let found = PEERS.into_iter().find(|peer| peer.name == name);
    found.ok_or_else(|| format!("there is no peer `{name}`, only {}", names()))
}

fn folder_of_peer(text: &str) -> Result<(&'static Peer, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or("write PEER=FOLDER")?;
    Ok((by_name(name)?, PathBuf::from(folder)))
}

fn home() -> PathBuf {
    workspace::target().join("peers")
}

impl Peer {
    /// Name and version of the archive, and of the folder that it holds.
    fn archive_stem(&self) -> String {
        format!("{}-{}", self.package.replace('-', "_"), self.version)
    }

    fn build_folder(&self, compiler: &Compiler) -> PathBuf {
        home().join(format!("{}-{}-{}", self.name, self.version, compiler.name))
    }

    fn programs(&self, compiler: &Compiler) -> PathBuf {
        self.build_folder(compiler).join("bin")
    }

    fn has(&self, compiler: &Compiler, tools: &[&str]) -> bool {
        tools.iter().all(|tool| self.programs(compiler).join(tool).is_file())
    }
}

/// Downloads, checks, unpacks and builds the peers, whatever of that is still to be done.
///
/// # Errors
/// A missing build tool (with what to install), a failed download, an archive that is not the pinned one, a failed build.
pub fn run(options: &Options) -> Result<()> {
    let wanted = if options.peers.is_empty() { PEERS.to_vec() } else { options.peers.clone() };
    for peer in wanted {
        for compiler in peer.compilers {
            if options.rebuild || !peer.has(compiler, peer.tools) {
                build(peer, compiler, &[], peer.tools)?;
            }
            if options.servers && (options.rebuild || !peer.has(compiler, &[SERVER])) {
                build(peer, compiler, &SERVER_CONFIGURATION, &[SERVER])?;
            }
            println!("{}", peer.programs(compiler).display());
        }
    }
    let models = if options.models { &MODELS[..] } else { &[] };
    for model in models {
        println!("{}", model.file(&Programs::default())?.display());
    }
    Ok(())
}

fn build(peer: &Peer, compiler: &Compiler, changes: &[&str], tools: &[&str]) -> Result<()> {
    install_build_tools()?;
    unpack(peer, &download(peer)?)?;
    let source = home().join(peer.archive_stem()).join("vendor").join(peer.name);
    for (path, text) in peer.missing_files {
        let path = source.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&source))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let folder = peer.build_folder(compiler);
    forget_if_moved(&folder, &source)?;
    let mut configure = Command::new("cmake");
    configure.args(["-G", "Ninja", "-S"]).arg(&source).arg("-B").arg(&folder);
    configure.arg(format!("-DCMAKE_C_COMPILER={}", compiler.name));
    configure.arg(format!("-DCMAKE_CXX_COMPILER={}", compiler.cplusplus));
    let header = home().join(format!("{}.h", compiler.name));
    fs::write(&header, compiler.header).with_context(|| format!("cannot write {}", header.display()))?;
    // No warnings: there are hundreds of thousands of lines of them.
    for language in ["C", "CXX"] {
        configure.arg(format!("-DCMAKE_{language}_FLAGS=-w -include {}", header.display()));
    }
    process::run(configure.args(CONFIGURATION).args(peer.configuration).args(changes))?;
    process::run(Command::new("cmake").arg("--build").arg(&folder).arg("--target").args(tools))
}

/// Removes a build of the same source at another path, which cmake refuses to go on with: the checkout has moved.
fn forget_if_moved(folder: &Path, source: &Path) -> Result<()> {
    let Ok(cache) = fs::read_to_string(folder.join("CMakeCache.txt")) else { return Ok(()) };
    let home = cache.lines().find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="));
    if home.is_none_or(|home| Path::new(home) != source) {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
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
        bail!("building the peers needs {programs}; on Debian: sudo apt-get install {}", packages.join(" "));
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
fn download(peer: &Peer) -> Result<PathBuf> {
    let archive = home().join(format!("{}.tar.gz", peer.archive_stem()));
    if !archive.is_file() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--no-deps", "--no-binary", peer.package, "--dest"]).arg(home());
        process::run(pip.arg(format!("{}=={}", peer.package, peer.version)))?;
    }
    let bytes = fs::read(&archive).with_context(|| format!("pip left no {}", archive.display()))?;
    let found = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    ensure!(
        found == peer.archive_sha256,
        "{} is not the pinned archive: its SHA-256 is {found}, expected {}; remove it and try again",
        archive.display(),
        peer.archive_sha256
    );
    Ok(archive)
}

/// Unpacks the archive beside itself; the folder appears under its name only when it is complete.
fn unpack(peer: &Peer, archive: &Path) -> Result<()> {
    let folder = home().join(peer.archive_stem());
    if folder.is_dir() {
        return Ok(());
    }
    let staging = home().join("unpacking");
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    fs::create_dir_all(&staging)?;
    process::run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&staging))?;
    fs::rename(staging.join(peer.archive_stem()), folder)?;
    fs::remove_dir(&staging).context("the archive holds more than one folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_found_by_name_and_a_wrong_name_is_answered_with_the_right_ones() {
        for peer in PEERS {
            let (found, folder) = folder_of_peer(&format!("{}=/a=b", peer.name)).unwrap();
            assert_eq!((found.name, folder.as_path()), (peer.name, Path::new("/a=b")));
        }
        assert!(by_name("lama").unwrap_err().contains("llama.cpp, ik_llama.cpp"));
        assert!(folder_of_peer("llama.cpp").is_err());
    }

    #[test]
    fn archives_are_named_as_python_names_them() {
        assert_eq!(LLAMA_CPP.archive_stem(), "llama_cpp_python-0.3.36");
        assert_eq!(IK_LLAMA_CPP.archive_stem(), "ik_llama_cpp_python-0.1.5");
    }
}

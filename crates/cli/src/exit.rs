//! Exit codes, and the error that carries one. Decided here and nowhere else.

use alti_engine::EngineError;
use alti_formats::FormatError;
use alti_hub::HubError;
use alti_models::ModelError;
use alti_plan::PlanError;
use alti_store::StoreError;
use alti_tensor::BackendError;
use alti_text::TextError;
use std::fmt;
use std::io::{self, ErrorKind};
use std::process::ExitCode;

/// Why the program ends without having done what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Something went wrong while doing it.
    Failed,
    /// The command line asks for something that cannot be.
    Usage,
    /// A model, file or revision that does not exist.
    NotFound,
    /// A licence that wants to be accepted first.
    License,
    /// A file that is damaged, hostile or not of a supported kind.
    BadFile,
    /// Not enough memory or disk.
    Resources,
    /// The network or the other side failed.
    Network,
    /// Stopped by the user.
    Interrupted,
}

impl Failure {
    /// Every failure with its exit code and what it means; `alti help exit-codes` prints it.
    pub const TABLE: [(Failure, u8, &'static str); 8] = [
        (Failure::Failed, 1, "the command failed"),
        (Failure::Usage, 2, "the command line is wrong"),
        (Failure::NotFound, 3, "a model, file or revision was not found"),
        (Failure::License, 4, "the model's licence must be accepted first (--accept-license)"),
        (Failure::BadFile, 5, "a file is damaged or of an unsupported kind"),
        (Failure::Resources, 6, "not enough memory or disk"),
        (Failure::Network, 7, "the network or the server on it failed"),
        (Failure::Interrupted, 130, "interrupted"),
    ];

    /// The process exit code.
    pub fn code(self) -> u8 {
        Self::TABLE[self as usize].1
    }
}

/// A message to the user with the exit code that goes with it; wrap it in any error.
#[derive(Debug)]
pub struct Exit {
    /// Which exit code.
    pub failure: Failure,
    /// What, where and what to do.
    pub message: String,
}

impl Exit {
    /// A failure with its message.
    pub fn new(failure: Failure, message: impl Into<String>) -> Exit {
        Exit { failure, message: message.into() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Exit {}

/// What an error says, in one line: its message, and those of its causes that it does not repeat itself.
pub fn message_of(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |line, cause| {
        let cause = cause.to_string();
        match line.is_empty() {
            true => cause,
            false if line.contains(&cause) => line,
            false => format!("{line}: {cause}"),
        }
    })
}

/// An error of a command with `--force`, which a file that is in the way should name.
pub fn naming_force(error: FormatError) -> anyhow::Error {
    match error {
        FormatError::Exists { path } => {
            let message = format!(
                "{}: is there already; name another file, or add --force to replace it",
                path.display()
            );
            Exit::new(Failure::Failed, message).into()
        }
        error => error.into(),
    }
}

/// The exit code of an error: its own where it (or what caused it) has one.
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    let failure = error.chain().find_map(failure_of).unwrap_or(Failure::Failed);
    ExitCode::from(failure.code())
}

/// The failure that an error of one of our crates stands for.
fn failure_of(error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    if let Some(exit) = error.downcast_ref::<Exit>() {
        return Some(exit.failure);
    }
    if let Some(error) = error.downcast_ref::<HubError>() {
        return Some(of_hub(error));
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some(of_store(error));
    }
    if let Some(error) = error.downcast_ref::<FormatError>() {
        return Some(of_format(error));
    }
    if let Some(error) = error.downcast_ref::<TextError>() {
        return of_text(error);
    }
    if let Some(error) = error.downcast_ref::<PlanError>() {
        return Some(of_plan(error));
    }
    // What is transparent shows its cause's message and has no cause of its own to find in the chain.
    if let Some(ModelError::Format(error)) = error.downcast_ref() {
        return Some(of_format(error));
    }
    let backend = match error.downcast_ref() {
        Some(EngineError::Backend(error)) => Some(error),
        _ => error.downcast_ref::<BackendError>(),
    };
    matches!(backend, Some(BackendError::Memory { .. })).then_some(Failure::Resources)
}

fn of_hub(error: &HubError) -> Failure {
    match error {
        HubError::Io { source, .. } => of_io(source),
        HubError::DiskFull { .. } | HubError::NoSpace { .. } => Failure::Resources,
        HubError::BadSpec { .. } | HubError::AmbiguousName { .. } => Failure::Usage,
        HubError::NotInStore { .. }
        | HubError::NotInCatalogue { .. }
        | HubError::NotFound { .. }
        | HubError::Selection { .. } => Failure::NotFound,
        HubError::LicenseNotAccepted { .. } => Failure::License,
        HubError::AccessDenied { .. }
        | HubError::Network { .. }
        | HubError::Protocol { .. }
        | HubError::Pip { .. }
        | HubError::AllSourcesFailed { .. } => Failure::Network,
        HubError::WrongHash { .. }
        | HubError::WrongSize { .. }
        | HubError::UnsafePath { .. }
        | HubError::Archive { .. }
        | HubError::Damaged { .. } => Failure::BadFile,
        HubError::Cancelled => Failure::Interrupted,
        _ => Failure::Failed,
    }
}

fn of_store(error: &StoreError) -> Failure {
    match error {
        StoreError::NotFound { .. } => Failure::NotFound,
        StoreError::Invalid { .. } => Failure::Usage,
        StoreError::Newer { .. } | StoreError::Foreign { .. } | StoreError::Corrupt { .. } => {
            Failure::BadFile
        }
        StoreError::DiskFull { .. } => Failure::Resources,
        StoreError::Io { source, .. } => of_io(source),
        _ => Failure::Failed,
    }
}

fn of_format(error: &FormatError) -> Failure {
    match error {
        FormatError::Io { source, .. } => of_io(source),
        FormatError::Convert { .. } | FormatError::Exists { .. } => Failure::Failed,
        _ => Failure::BadFile,
    }
}

fn of_plan(error: &PlanError) -> Failure {
    match error {
        PlanError::Unknown { .. } => Failure::NotFound,
        PlanError::Value { .. } => Failure::Usage,
        PlanError::Memory { .. } => Failure::Resources,
        PlanError::File { .. } => Failure::BadFile,
    }
}

fn of_text(error: &TextError) -> Option<Failure> {
    match error {
        TextError::Metadata(error) => Some(of_format(error)),
        TextError::In { source, .. } => of_text(source),
        TextError::TemplateRender { .. } => None,
        _ => Some(Failure::BadFile),
    }
}

fn of_io(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => Failure::NotFound,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Failure::Resources,
        _ => Failure::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = io::Error::new(ErrorKind::NotFound, "no such file");
        let error = FormatError::Io { path: "a.gguf".into(), action: "open", source: cause };
        assert_eq!(message_of(&error.into()), "a.gguf: cannot open: no such file");
        let error = anyhow::Error::from(io::Error::other("the reason")).context("the model");
        assert_eq!(message_of(&error), "the model: the reason");
    }

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_codes_are_distinct() {
        for (index, (failure, code, _)) in Failure::TABLE.iter().enumerate() {
            assert_eq!(*failure as usize, index);
            assert_eq!(Failure::TABLE.iter().filter(|row| row.1 == *code).count(), 1);
        }
    }
}

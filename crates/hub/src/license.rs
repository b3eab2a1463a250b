//! The licences of the Llama family: what they ask of whoever uses the models, and who agreed.
//!
//! The summaries are this project's own words, to be shown before a first download; they point to
//! the binding text and do not replace it. One table, [`LICENSES`], drives detection, display and
//! the record of acceptances.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::digest::{Sha256Hex, sha256_of_text};
use crate::error::HubError;
use crate::store::{Store, read_json, write_json};

/// A licence with terms that somebody has to accept before a model is downloaded.
#[derive(Debug, PartialEq, Eq)]
pub struct License {
    /// The identifier that the Hub and GGUF metadata use (`llama3.2`).
    pub id: &'static str,
    /// Its title.
    pub title: &'static str,
    /// Where the binding text is.
    pub link: &'static str,
    /// Where the acceptable use policy is, which is part of it.
    pub use_policy: &'static str,
    /// The line that distributed copies must carry in a notice file.
    pub notice: &'static str,
    /// The day that the 700-million-users clause looks at.
    pub release_date: &'static str,
    /// What products must show ("Built with Llama"), if anything.
    pub attribution: Option<&'static str>,
    /// What the names of models derived from it must begin with, if anything.
    pub name_prefix: Option<&'static str>,
    /// Whether using outputs to improve other language models is forbidden.
    pub forbids_improving_others: bool,
    /// Whether the use policy withholds multimodal models from licensees in the European Union.
    pub excludes_european_multimodal: bool,
}

/// Every licence that wants an acceptance.
pub const LICENSES: [License; 6] = [
    License {
        id: "llama2",
        title: "Llama 2 Community License Agreement",
        link: "https://ai.meta.com/llama/license/",
        use_policy: "https://ai.meta.com/llama/use-policy",
        notice: "Llama 2 is licensed under the LLAMA 2 Community License, \
                 Copyright (c) Meta Platforms, Inc. All Rights Reserved.",
        release_date: "18 July 2023",
        attribution: None,
        name_prefix: None,
        forbids_improving_others: true,
        excludes_european_multimodal: false,
    },
    License {
        id: "llama3",
        title: "Meta Llama 3 Community License Agreement",
        link: "https://www.llama.com/llama3/license/",
        use_policy: "https://www.llama.com/llama3/use-policy/",
        notice: "Meta Llama 3 is licensed under the Meta Llama 3 Community License, \
                 Copyright © Meta Platforms, Inc. All Rights Reserved.",
        release_date: "18 April 2024",
        attribution: Some("Built with Meta Llama 3"),
        name_prefix: Some("Llama 3"),
        forbids_improving_others: true,
        excludes_european_multimodal: false,
    },
    License {
        id: "llama3.1",
        title: "Llama 3.1 Community License Agreement",
        link: "https://www.llama.com/llama3_1/license/",
        use_policy: "https://www.llama.com/llama3_1/use-policy/",
        notice: "Llama 3.1 is licensed under the Llama 3.1 Community License, \
                 Copyright © Meta Platforms, Inc. All Rights Reserved.",
        release_date: "23 July 2024",
        attribution: Some("Built with Llama"),
        name_prefix: Some("Llama"),
        forbids_improving_others: false,
        excludes_european_multimodal: false,
    },
    License {
        id: "llama3.2",
        title: "Llama 3.2 Community License Agreement",
        link: "https://www.llama.com/llama3_2/license/",
        use_policy: "https://www.llama.com/llama3_2/use-policy/",
        notice: "Llama 3.2 is licensed under the Llama 3.2 Community License, \
                 Copyright © Meta Platforms, Inc. All Rights Reserved.",
        release_date: "25 September 2024",
        attribution: Some("Built with Llama"),
        name_prefix: Some("Llama"),
        forbids_improving_others: false,
        excludes_european_multimodal: true,
    },
    License {
        id: "llama3.3",
        title: "Llama 3.3 Community License Agreement",
        link: "https://www.llama.com/llama3_3/license/",
        use_policy: "https://www.llama.com/llama3_3/use-policy/",
        notice: "Llama 3.3 is licensed under the Llama 3.3 Community License, \
                 Copyright © Meta Platforms, Inc. All Rights Reserved.",
        release_date: "6 December 2024",
        attribution: Some("Built with Llama"),
        name_prefix: Some("Llama"),
        forbids_improving_others: false,
        excludes_european_multimodal: true,
    },
    License {
        id: "llama4",
        title: "Llama 4 Community License Agreement",
        link: "https://www.llama.com/llama4/license/",
        use_policy: "https://www.llama.com/llama4/use-policy/",
        notice: "Llama 4 is licensed under the Llama 4 Community License, \
                 Copyright © Meta Platforms, Inc. All Rights Reserved.",
        release_date: "5 April 2025",
        attribution: Some("Built with Llama"),
        name_prefix: Some("Llama"),
        forbids_improving_others: false,
        excludes_european_multimodal: true,
    },
];

impl License {
    /// A summary of the terms, for display before acceptance. Not legal advice, and not the licence.
    pub fn terms(&self) -> String {
        let mut text = format!(
            "{}\nA summary in our words; the binding text is at {}\n\
             - You may use, copy, change and distribute the model, free of charge, under these \
             conditions.\n\
             - Passing it on, or a model made from it: include a copy of the licence, and a file \
             named \"Notice\" that says: \"{}\"\n",
            self.title, self.link, self.notice
        );
        let mut add = |line: &str| {
            let _ = writeln!(text, "- {line}");
        };
        if let Some(words) = self.attribution {
            add(&format!(
                "A website, user interface, page or documentation of a product with it must \
                 prominently show \"{words}\"."
            ));
        }
        if let Some(prefix) = self.name_prefix {
            let inputs = if self.forbids_improving_others { "" } else { " or its outputs" };
            add(&format!(
                "A model that you train or improve with it{inputs} and distribute must have a name \
                 that begins with \"{prefix}\"."
            ));
        }
        if self.forbids_improving_others {
            add("Neither the model nor its outputs may be used to improve other language models \
                 (except derivatives of this one).");
        }
        add(&format!(
            "If your products and those of your affiliates had more than 700 million monthly \
             active users in the month before its release ({}), you need a separate licence from \
             Meta.",
            self.release_date
        ));
        add(&format!("The acceptable use policy is part of the licence: {}", self.use_policy));
        if self.excludes_european_multimodal {
            add("Multimodal models of this release: no rights are granted to individuals domiciled \
                 in, or companies with their principal place of business in, the European Union \
                 (end users of products that contain one are not affected).");
        }
        add("No warranty; suing Meta over rights in the model ends the licence; the law of \
             California applies.");
        text
    }
}

/// The licence with that identifier, if it is one that wants an acceptance.
pub fn by_id(id: &str) -> Option<&'static License> {
    let normal = normalise(id);
    LICENSES.iter().find(|license| normalise(license.id) == normal)
}

/// `Llama 3.2 Community License`, `llama-3.2` and `llama3_2` all name `llama3.2`.
fn normalise(id: &str) -> String {
    let lower = id.to_lowercase();
    let name = lower.split("community").next().unwrap_or_default();
    let name = name.strip_prefix("meta").unwrap_or(name).replace('_', ".");
    name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect()
}

/// An entry of the record of acceptances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The licence's identifier.
    pub license: String,
    /// Its title.
    pub title: String,
    /// Who accepted, in the words of the caller (a user's name, say).
    pub who: String,
    /// When, RFC 3339, UTC.
    pub when: String,
    /// The model whose download asked for it.
    pub model: String,
    /// Digest of the summary that was shown.
    pub terms_sha256: Sha256Hex,
}

impl Store {
    /// Every licence that was accepted in this store, oldest first.
    ///
    /// # Errors
    /// [`HubError::Damaged`] if the record cannot be read.
    pub fn accepted_licenses(&self) -> Result<Vec<Acceptance>, HubError> {
        Ok(read_json(&self.licenses_path())?.unwrap_or_default())
    }

    /// Lets a download pass if its licence wants no acceptance or has it; otherwise records the
    /// acceptance in `accept` (who accepts) or fails.
    pub(crate) fn require_license(
        &self,
        model: &str,
        license_id: Option<&str>,
        accept: Option<&str>,
    ) -> Result<(), HubError> {
        let Some(license) = license_id.and_then(by_id) else { return Ok(()) };
        let _lock = self.store_lock()?;
        let mut accepted = self.accepted_licenses()?;
        if accepted.iter().any(|entry| entry.license == license.id) {
            return Ok(());
        }
        let terms = license.terms();
        let Some(who) = accept else {
            return Err(HubError::LicenseNotAccepted { model: model.to_string(), license, terms });
        };
        accepted.push(Acceptance {
            license: license.id.to_string(),
            title: license.title.to_string(),
            who: who.to_string(),
            when: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            model: model.to_string(),
            terms_sha256: sha256_of_text(&terms),
        });
        write_json(&self.licenses_path(), &accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_identifier_is_found() {
        let cases = [
            ("llama3.2", "llama3.2"),
            ("Llama-3.2", "llama3.2"),
            ("llama3_1", "llama3.1"),
            ("LLAMA 3.3 Community License", "llama3.3"),
            ("Meta Llama 3 Community License Agreement", "llama3"),
            ("llama2", "llama2"),
            ("llama4", "llama4"),
        ];
        for (text, id) in cases {
            assert_eq!(by_id(text).map(|license| license.id), Some(id), "{text}");
        }
        for text in ["apache-2.0", "mit", "", "llama", "llama3.9"] {
            assert_eq!(by_id(text), None, "{text}");
        }
    }

    #[test]
    fn the_terms_name_what_each_licence_asks() {
        for license in &LICENSES {
            let terms = license.terms();
            assert!(
                terms.contains("700 million")
                    && terms.contains(license.link)
                    && terms.contains(license.notice)
            );
        }
        let terms = |id| by_id(id).unwrap().terms();
        assert!(!terms("llama2").contains("Built with"));
        assert!(
            terms("llama3").contains("Built with Meta Llama 3") && terms("llama3").contains("improve other")
        );
        assert!(terms("llama4").contains("European Union") && !terms("llama3.1").contains("European Union"));
    }
}

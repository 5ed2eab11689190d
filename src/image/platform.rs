//! Platforms of multi-platform images: `linux/arm64/v8`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Error;

/// An operating system and a processor, named as Go names them (OCI image-spec,
/// image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system: `linux`.
    pub os: String,
    /// The processor: `amd64`, `arm64`, …
    pub architecture: String,
    /// The processor's variant: `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well `offered` serves this platform: `None` not at all, else the greater
    /// the better. A variant that is left out fits any, a lower arm variant runs on
    /// a higher one.
    pub fn fit(&self, offered: &Platform) -> Option<u32> {
        let (want, have) = (self.normal(), offered.normal());
        if want.os != have.os || want.architecture != have.architecture {
            return None;
        }
        match (want.variant.as_deref(), have.variant.as_deref()) {
            (None, None) => Some(100),
            (None, Some(_)) | (Some(_), None) => Some(50),
            (Some(want), Some(have)) if want == have => Some(100),
            (Some(want), Some(have)) => {
                let number = |v: &str| v.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
                let (want, have) = (number(want)?, number(have)?);
                (have < want).then_some(have.min(49))
            }
        }
    }

    /// `aarch64` is `arm64`, and `arm64` is `v8` unless it says otherwise
    /// (containerd, platforms/database.go).
    fn normal(&self) -> Platform {
        let architecture = match self.architecture.as_str() {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "i686" => "386",
            "armhf" => "arm",
            other => other,
        };
        let variant = match (architecture, self.variant.as_deref()) {
            ("arm64", None | Some("8")) => Some("v8"),
            ("amd64", Some("v1")) => None,
            ("arm", None) => Some("v7"),
            (_, variant) => variant,
        };
        Platform {
            os: self.os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }
}

/// Processors that may stand without a system, by Go's names and those of uname(1).
const KNOWN: [&str; 16] = [
    "386", "aarch64", "amd64", "arm", "arm64", "armhf", "i386", "i686", "loong64", "mips64le",
    "ppc64le", "riscv64", "s390x", "x86-64", "x86_64", "ppc64",
];

impl FromStr for Platform {
    type Err = Error;

    /// `linux/arm64`, `linux/arm/v7`, or the processor alone: `arm64`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        let (os, architecture, variant) = match parts.as_slice() {
            // The system alone: this machine's processor.
            ["linux"] => return Ok(Platform::host()),
            [architecture] if KNOWN.contains(architecture) => ("linux", *architecture, None),
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => ("", "", None),
        };
        if !word(&os) || !word(&architecture) || !variant.as_ref().is_none_or(word) {
            return Err(Error::invalid(format!(
                "{text:?}: unknown operating system or architecture: invalid argument; write it \
                 as linux/amd64 or linux/arm/v7"
            )));
        }
        let platform = Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        };
        let normal = platform.normal();
        Ok(Platform { variant: platform.variant, ..normal })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn platforms_parse() {
        assert_eq!(platform("arm64").to_string(), "linux/arm64");
        assert_eq!(platform("linux/x86_64").to_string(), "linux/amd64");
        assert_eq!(platform("linux/arm/v7").to_string(), "linux/arm/v7");
        assert_eq!(platform("linux"), Platform::host());
        for bad in ["", "foobar", "linux/", "/amd64", "a/b/c/d", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_best_fit_wins() {
        let arm = platform("linux/arm/v7");
        assert_eq!(arm.fit(&platform("linux/arm/v7")), Some(100));
        assert!(arm.fit(&platform("linux/arm/v6")) > arm.fit(&platform("linux/arm/v5")));
        assert_eq!(arm.fit(&platform("linux/arm/v8")), None);
        assert_eq!(platform("linux/arm64").fit(&platform("linux/arm64/v8")), Some(100));
        assert_eq!(platform("linux/amd64").fit(&platform("linux/arm64")), None);
        assert_eq!(platform("linux/amd64").fit(&platform("windows/amd64")), None);
    }
}

//! When a registry is asked for an image.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::image::Error;

/// When the registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Each time; but not for a digest that is there.
    Always,
    /// If the image is not there.
    #[default]
    Missing,
    /// Never.
    Never,
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "always" => Ok(Policy::Always),
            "missing" => Ok(Policy::Missing),
            "never" => Ok(Policy::Never),
            _ => Err(Error::invalid(format!(
                "{text:?} is no pull policy; write always, missing or never"
            ))),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Always => "always",
            Policy::Missing => "missing",
            Policy::Never => "never",
        })
    }
}

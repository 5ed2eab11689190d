//! What can be written behind the verbs of images.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::args::Format;

/// The verbs of images and of containers' files.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Download an image.
    Pull(Pull),
    /// Upload an image.
    Push(Push),
    /// Give an image one more name.
    Tag {
        /// Which image.
        #[arg(value_name = "IMAGE")]
        source: String,
        /// The new name.
        #[arg(value_name = "NAME[:TAG]")]
        target: String,
    },
    /// Remove names of images, and images with their last name.
    Rmi {
        /// Which images.
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Also those with several names, or that a stopped container is made of.
        #[arg(short, long)]
        force: bool,
    },
    /// List images.
    Images(Images),
    /// Print the steps that an image was made by.
    History(History),
    /// Write images into an archive, for `load` here and elsewhere.
    Save(Save),
    /// Read images from an archive of `save`, of Docker, podman or skopeo.
    Load(Load),
    /// Write all files of a container as a tar.
    Export(Export),
    /// Make an image of the tar of a root file system.
    Import(Import),
    /// Copy files between a container and here; `-` is a tar stream.
    Cp(Cp),
    /// List what a container has changed: A added, C changed, D deleted.
    Diff {
        /// Which container.
        name: String,
    },
    /// Make an image of a container with its changes.
    Commit(Commit),
    /// Make a container with another one's files and settings.
    #[command(visible_alias = "snapshot")]
    Clone(CloneArgs),
    /// Log in to a registry.
    Login(Login),
    /// Forget the login to a registry.
    Logout {
        /// Which registry.
        #[arg(default_value = "docker.io", value_name = "REGISTRY")]
        registry: String,
    },
    /// Remove what no image, container or manifest needs.
    Prune(Prune),
    /// Print what uses how much disk.
    Df {
        /// One by one.
        #[arg(short, long)]
        verbose: bool,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Read and check all images and layers: exit status 1 if anything is damaged.
    Verify {
        /// Move what is damaged out of the way, so that the next pull brings it anew.
        #[arg(long)]
        repair: bool,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

/// What is pulled.
#[derive(Debug, Clone, Args, Default)]
pub struct Pull {
    /// Which image: NAME[:TAG] or NAME@DIGEST.
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// For which platform, such as linux/arm64.
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Only say the name at the end.
    #[arg(short, long)]
    pub quiet: bool,
}

/// What is pushed.
#[derive(Debug, Clone, Args)]
pub struct Push {
    /// Which image.
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Only say the name at the end.
    #[arg(short, long)]
    pub quiet: bool,
    /// In pieces of so many bytes, for registries that want them.
    #[arg(long, value_name = "BYTES")]
    pub chunk: Option<u64>,
}

/// Which images are listed how.
#[derive(Debug, Clone, Args)]
pub struct Images {
    /// Only those with this name; `*` stands for any letters.
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
    /// All: as there are no others here, this says nothing.
    #[arg(short, long)]
    pub all: bool,
    /// Only their ids.
    #[arg(short, long)]
    pub quiet: bool,
    /// With the digests that registries know them by.
    #[arg(long)]
    pub digests: bool,
    /// Whole ids.
    #[arg(long)]
    pub no_trunc: bool,
    /// Only some: dangling=true, label=KEY[=VALUE], reference=PATTERN.
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Which history is printed how.
#[derive(Debug, Clone, Args)]
pub struct History {
    /// Which image.
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Only ids.
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids and commands.
    #[arg(long)]
    pub no_trunc: bool,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Which kind of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    Oci,
    /// A docker-archive.
    Docker,
}

/// What is saved where.
#[derive(Debug, Clone, Args)]
pub struct Save {
    /// Which images.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Into a file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// For readers of one format only; otherwise it is both at once.
    #[arg(long, value_enum)]
    pub format: Option<ArchiveFormat>,
}

/// From where is loaded.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// From a file instead of standard input.
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Say nothing of the progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// What is exported where.
#[derive(Debug, Clone, Args)]
pub struct Export {
    /// Which container.
    pub name: String,
    /// Into a file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// What is imported as what.
#[derive(Debug, Clone, Args)]
pub struct Import {
    /// A tar, also compressed: a file, a URL, or `-` for standard input.
    #[arg(value_name = "FILE|URL|-")]
    pub source: String,
    /// The image's name.
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
    /// An instruction for its configuration, as in a Dockerfile: 'CMD ["sh"]'.
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// A note.
    #[arg(short, long)]
    pub message: Option<String>,
    /// For which platform it is.
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
}

/// What is copied where.
#[derive(Debug, Clone, Args)]
pub struct Cp {
    /// CONTAINER:PATH, a path of here, or `-`.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// CONTAINER:PATH, a path of here, or `-`.
    #[arg(value_name = "DESTINATION")]
    pub destination: String,
    /// Keep owners: numbers as they are.
    #[arg(short, long)]
    pub archive: bool,
    /// What a link leads to, not the link.
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Say nothing.
    #[arg(short, long)]
    pub quiet: bool,
}

/// What becomes an image.
#[derive(Debug, Clone, Args)]
pub struct Commit {
    /// Which container.
    pub name: String,
    /// The image's name.
    #[arg(value_name = "IMAGE[:TAG]")]
    pub image: Option<String>,
    /// Whose work it is.
    #[arg(short, long)]
    pub author: Option<String>,
    /// A note.
    #[arg(short, long)]
    pub message: Option<String>,
    /// An instruction for its configuration, as in a Dockerfile: 'CMD ["sh"]'.
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Whether the container stands still meanwhile.
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub pause: bool,
}

/// What is cloned.
#[derive(Debug, Clone, Args)]
pub struct CloneArgs {
    /// Which container.
    pub name: String,
    /// The new one's name.
    #[arg(value_name = "NEW-NAME")]
    pub new: Option<String>,
    /// Start it.
    #[arg(short, long)]
    pub start: bool,
    /// Whether the container stands still meanwhile.
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub pause: bool,
}

/// As whom to log in.
#[derive(Debug, Clone, Args)]
pub struct Login {
    /// To which registry.
    #[arg(default_value = "docker.io", value_name = "REGISTRY")]
    pub registry: String,
    /// The name.
    #[arg(short, long)]
    pub username: Option<String>,
    /// The password; others of this machine can see it.
    #[arg(short, long, conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Read the password from standard input.
    #[arg(long)]
    pub password_stdin: bool,
}

/// What is pruned.
#[derive(Debug, Clone, Args)]
pub struct Prune {
    /// Also images with a name that no container and no manifest needs.
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub force: bool,
}

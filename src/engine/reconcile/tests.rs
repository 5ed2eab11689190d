//! Single behaviours, each told as a short story.

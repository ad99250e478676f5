//! The bodies of the fuzz targets; see [`targets`].

pub mod targets;

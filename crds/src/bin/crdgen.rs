//! Writes the three definitions into the chart and into `deploy/`, or checks that they are there as they should be.
//!
//! `cargo run -p modelcache-crds --bin crdgen [-- --check | --print]`, from the root of the repository.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use modelcache_crds::generate;

const USAGE: &str = "usage: crdgen [--check | --print]   (in the root of the repository)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => write(),
        ["--check"] => check(),
        ["--print"] => print(),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write() -> Result<(), Box<dyn Error>> {
    for (path, text) in generate::files()? {
        let path = here(&path)?;
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(&path, text)?;
        println!("{}", path.display());
    }
    Ok(())
}

fn check() -> Result<(), Box<dyn Error>> {
    for (path, text) in generate::files()? {
        let path = here(&path)?;
        if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            return Err(format!(
                "{} is not what the Rust types say; run: cargo run --release -p modelcache-crds --bin crdgen",
                path.display()
            )
            .into());
        }
    }
    Ok(())
}

fn print() -> Result<(), Box<dyn Error>> {
    print!("{}", generate::plain(&generate::definitions()?)?);
    Ok(())
}

/// A file of the repository, which is where this was started.
fn here(path: &Path) -> Result<PathBuf, Box<dyn Error>> {
    if !Path::new("charts").is_dir() || !Path::new("deploy").is_dir() {
        return Err(
            "there is no charts/ and deploy/ here; start me in the root of the repository".into(),
        );
    }
    Ok(path.to_path_buf())
}

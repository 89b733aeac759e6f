//! What hali calls a model: `base:size:variant:quantization`, read off the names of the repository and the file.
//!
//! Two machines find each other by this name only if both read it alike, so the rules are hali's, odd ones included.

/// What a variant may be called, in the order in which they are looked for.
const VARIANTS: [&str; 5] = ["instruct", "chat", "code", "it", "sft"];
const FLOATS: [&str; 5] = ["f16", "f32", "fp16", "fp32", "bf16"];
const SEPARATORS: [char; 2] = ['-', '_'];

/// The name of the file `file` (its last path element) of a repository; `None` when it is no GGUF file, or one part of
/// several, which somebody would take for the whole, or when its name says too little.
#[must_use]
pub fn model_name(repository: &str, file: &str) -> Option<String> {
    let file = file.to_ascii_lowercase();
    let stem = file.strip_suffix(".gguf").filter(|stem| !is_part(stem))?;
    let repository = repository.to_ascii_lowercase();
    let name = repository
        .split_once('/')
        .map_or(repository.as_str(), |(_, name)| name)
        .replace("-gguf", "");
    let size = size(stem).or_else(|| size(&name))?;
    let quantization = quantization(stem)?;
    let before_size = match name.find(size) {
        Some(at) if at > 0 => name.get(..at)?,
        _ => name.as_str(),
    };
    let base = before_size
        .trim_matches(['-', '_', '.', ' '])
        .split(SEPARATORS)
        .find(|part| !part.is_empty())?;
    let variant = VARIANTS
        .into_iter()
        .find(|variant| name.contains(variant) || file.contains(variant))
        .unwrap_or("base");
    Some(format!("{base}:{size}:{variant}:{quantization}"))
}

/// Whether it ends as llama.cpp names the parts of a model: `-00001-of-00003`.
fn is_part(stem: &str) -> bool {
    let number = |text: &str| !text.is_empty() && digits(text) == Some(text.len());
    stem.rsplit_once("-of-").is_some_and(|(before, count)| {
        let this = before.rsplit_once('-').map(|(_, this)| this);
        number(count) && this.is_some_and(number)
    })
}

/// The first number with a `b` or `m` behind it: `7b`, `1.5b`, `360m`.
fn size(text: &str) -> Option<&str> {
    starts(text).find_map(|rest| {
        let whole = digits(rest)?;
        let after = rest.get(whole..)?;
        let part = match after.strip_prefix('.') {
            Some(fraction) => 1 + digits(fraction).unwrap_or(0),
            None => 0,
        };
        let len = whole + part;
        let unit = rest.get(len..)?.starts_with(['b', 'm']);
        rest.get(..=len).filter(|_| unit)
    })
}

/// The first quantization: `q4_k_m`, `bf16`.
fn quantization(text: &str) -> Option<&str> {
    starts(text).find_map(|rest| {
        if let Some(float) = FLOATS.into_iter().find(|float| rest.starts_with(float)) {
            return rest.get(..float.len());
        }
        let after = rest.strip_prefix('q')?;
        let kind = after.get(digits(after)?..)?.strip_prefix('_')?;
        let more = kind.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_');
        let end = more.unwrap_or(kind.len());
        (end > 0).then(|| rest.get(..rest.len() - kind.len() + end))?
    })
}

/// The rest of the text from each of its characters on.
fn starts(text: &str) -> impl Iterator<Item = &str> {
    text.char_indices().filter_map(|(at, _)| text.get(at..))
}

/// How many digits it begins with, at least one.
fn digits(text: &str) -> Option<usize> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    Some(end.unwrap_or(text.len())).filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By hali's rules in Python: `python3 swarm/src/discovery/hali/vectors.py`.
    #[test]
    fn names_are_those_of_hali() {
        let mut seen = [0, 0];
        for line in include_str!("names.jsonl").lines() {
            let (repository, file, name): (String, String, Option<String>) =
                serde_json::from_str(line).unwrap();
            assert_eq!(model_name(&repository, &file), name, "{line}");
            seen[usize::from(name.is_some())] += 1;
        }
        assert!(seen[0] > 100 && seen[1] > 100, "{seen:?}");
    }

    #[test]
    fn a_model_is_named_after_repository_and_file() {
        for (repository, file, name) in [
            (
                "TheBloke/Mistral-7B-Instruct-v0.2-GGUF",
                "mistral-7b-instruct-v0.2.Q4_K_M.gguf",
                Some("mistral:7b:instruct:q4_k_m"),
            ),
            (
                "acme/tiny-gguf",
                "tiny-1b.q8_0.gguf",
                Some("tiny:1b:base:q8_0"),
            ),
            ("acme/tiny-1b", "model.q8_0.safetensors", None),
            (
                "acme/tiny-1b",
                "tiny-q8_0-of-2.gguf",
                Some("tiny:1b:base:q8_0"),
            ),
            ("acme/tiny-1b", "tiny-q8_0-00001-of-00002.gguf", None),
        ] {
            assert_eq!(model_name(repository, file).as_deref(), name, "{file}");
        }
    }

    proptest! {
        #[test]
        fn a_name_has_four_parts(repository in "[a-zA-Z0-9._/-]{0,30}", file in ".{0,20}[0-9a-zA-Z._-]{0,20}\\.gguf") {
            if let Some(name) = model_name(&repository, &file) {
                prop_assert_eq!(name.split(':').filter(|part| !part.is_empty()).count(), 4, "{}", name);
            }
        }
    }
}

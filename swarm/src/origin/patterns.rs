//! File patterns as the official client reads them: Python's `fnmatch`, case-sensitive.
//!
//! `*` stands for any characters, `/` among them; `?` for one; `[abc]`, `[a-z]` and `[!abc]` for one of a set. A `[`
//! without its `]` stands for itself; there is no escape character.

/// Whether the user's patterns choose this path. No `include` pattern means every file; `exclude` is applied after it.
/// A pattern that ends in `/` means everything below it.
#[must_use]
pub fn matches(include: &[String], exclude: &[String], path: &str) -> bool {
    let path: Vec<char> = path.chars().collect();
    let any = |patterns: &[String]| patterns.iter().any(|pattern| chooses(pattern, &path));
    (include.is_empty() || any(include)) && !any(exclude)
}

fn chooses(pattern: &str, path: &[char]) -> bool {
    let mut pattern: Vec<char> = pattern.chars().collect();
    if pattern.last() == Some(&'/') {
        pattern.push('*');
    }
    fnmatch(&tokens(&pattern), path)
}

/// One element of a pattern.
#[derive(Debug)]
enum Token {
    /// Any number of characters.
    Many,
    /// Any one character.
    One,
    Literal(char),
    /// One character inside (or outside, when negated) of these ranges.
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Self::Many => false,
            Self::One => true,
            Self::Literal(literal) => *literal == c,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|&(low, high)| low <= c && c <= high) != *negated
            }
        }
    }
}

fn tokens(pattern: &[char]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let [first, tail @ ..] = rest {
        rest = tail;
        tokens.push(match first {
            '*' => Token::Many,
            '?' => Token::One,
            '[' => match set(tail) {
                Some((token, after)) => {
                    rest = after;
                    token
                }
                None => Token::Literal('['),
            },
            c => Token::Literal(*c),
        });
    }
    tokens
}

/// The set that begins after a `[`, and what follows its `]`; `None` when it is never closed.
fn set(after_bracket: &[char]) -> Option<(Token, &[char])> {
    let negated = after_bracket.first() == Some(&'!');
    let members = &after_bracket[usize::from(negated)..];
    // A `]` in first place is a member.
    let end = members.iter().skip(1).position(|&c| c == ']')? + 1;
    let (members, rest) = (&members[..end], &members[end + 1..]);
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        // A hyphen between two members makes a range; one whose ends are the wrong way round is empty.
        if let Some([low, '-', high]) = members.get(at..at + 3) {
            ranges.push((*low, *high));
            at += 3;
        } else {
            ranges.push((members[at], members[at]));
            at += 1;
        }
    }
    Some((Token::Set { negated, ranges }, rest))
}

/// Matches the whole of `text`. A mismatch goes back to the last `*` only, so the time is at most the product of the
/// lengths, whatever the pattern.
fn fnmatch(pattern: &[Token], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Token::Many) => {
                star = Some((p, t));
                p += 1;
            }
            Some(token) if token.accepts(text[t]) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((star_p, star_t)) => {
                    star = Some((star_p, star_t + 1));
                    p = star_p + 1;
                    t = star_t + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..]
        .iter()
        .all(|token| matches!(token, Token::Many))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(pattern: &str, path: &str) -> bool {
        matches(&[pattern.to_owned()], &[], path)
    }

    #[test]
    fn includes_first_then_excludes() {
        let of = |patterns: &[&str]| -> Vec<String> {
            patterns.iter().map(|&pattern| pattern.to_owned()).collect()
        };
        assert!(matches(&[], &[], "anything"));
        assert!(matches(&of(&["*.json", "*.txt"]), &[], "a/b.txt"));
        assert!(!matches(&of(&["*.json"]), &[], "a/b.txt"));
        assert!(!matches(&of(&["*.json"]), &of(&["a/*"]), "a/b.json"));
        assert!(matches(&[], &of(&["a/*"]), "b/a/c"));
    }

    #[test]
    fn a_trailing_slash_means_everything_below() {
        assert!(one("onnx/", "onnx/model.onnx"));
        assert!(one("onnx/", "onnx/deep/er"));
        assert!(!one("onnx/", "onnx"));
        assert!(!one("onnx/", "not-onnx/model"));
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        assert!(!one(&"*a".repeat(200), &"a".repeat(150)));
    }

    /// Written by Python: `python3 swarm/src/origin/fnmatch_vectors.py`.
    #[test]
    fn agrees_with_python() {
        let mut seen = [0, 0];
        for line in include_str!("fnmatch_vectors.jsonl").lines() {
            let (pattern, path, expected): (String, String, bool) =
                serde_json::from_str(line).unwrap();
            let tokens = tokens(&pattern.chars().collect::<Vec<_>>());
            let path: Vec<char> = path.chars().collect();
            assert_eq!(fnmatch(&tokens, &path), expected, "{line}");
            seen[usize::from(expected)] += 1;
        }
        assert!(seen[0] > 1000 && seen[1] > 1000, "{seen:?}");
    }

    proptest! {
        #[test]
        fn a_path_without_special_characters_matches_itself_only(path in "[a-z/.é ]{1,20}", other in "[a-z/.é ]{1,20}") {
            prop_assume!(!path.ends_with('/'));
            prop_assert!(one(&path, &path));
            prop_assert_eq!(one(&path, &other), path == other);
        }

        #[test]
        fn a_star_stands_for_anything(start in "[a-z/]{0,8}", middle in ".{0,12}", end in "[a-z]{1,8}") {
            let pattern = format!("{start}*{end}");
            let path = format!("{start}{middle}{end}");
            prop_assert!(one(&pattern, &path));
        }

        #[test]
        fn anything_may_be_a_pattern(pattern in "[\\[\\]!*?a-c/-]{0,16}", path in ".{0,16}") {
            let _ = one(&pattern, &path);
        }
    }
}

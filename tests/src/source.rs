//! Rust source as far as the tidy test needs to understand it: what is code, what is comment, where functions end.

/// A source file with its parts told apart. Both texts have the lines and columns of the original; what belongs to the
/// other part is blanked with spaces.
#[derive(Debug)]
pub struct Source {
    /// The code; the contents of string and character literals are blanked too.
    pub code: String,
    /// The comments with their slashes.
    pub comments: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of its `fn`, from 1.
    pub line: usize,
    /// Lines from `fn` to the closing brace, both included.
    pub lines: usize,
}

/// What a character of the file belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    LineComment,
    /// Block comments nest; this is the depth.
    BlockComment(usize),
    /// A string in quotes, and whether the character before was a backslash.
    Text(bool),
    /// A raw string that ends with a quote and so many hashes.
    RawText(usize),
}

impl Source {
    /// Tells the parts of `text` apart.
    #[must_use]
    pub fn parse(text: &str) -> Source {
        let characters: Vec<char> = text.chars().collect();
        let (mut code, mut comments) = (String::with_capacity(text.len()), String::with_capacity(text.len()));
        let (mut part, mut at) = (Part::Code, 0);
        while at < characters.len() {
            let (next, length) = step(part, &characters, at);
            let is_comment = [part, next].iter().any(|p| matches!(p, Part::LineComment | Part::BlockComment(_)));
            // Code goes on by one character, but past a character literal in one step.
            let is_literal = next == Part::Code && length > 1;
            let is_code = part == Part::Code && !is_comment && !is_literal;
            for &character in &characters[at..at + length] {
                let blank = if character == '\n' { '\n' } else { ' ' };
                code.push(if is_code { character } else { blank });
                comments.push(if is_comment { character } else { blank });
            }
            part = next;
            at += length;
        }
        Source { code, comments }
    }

    /// The functions that have a body, in the order of the file.
    #[must_use]
    pub fn functions(&self) -> Vec<Function> {
        let lines: Vec<&str> = self.code.lines().collect();
        let mut functions = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            let Some(name) = function_name(line) else { continue };
            if let Some(count) = lines_of_body(&lines[index..], line.find("fn ").unwrap_or(0)) {
                functions.push(Function { name, line: index + 1, lines: count });
            }
        }
        functions
    }
}

/// The part that follows, and how many characters belong to the step: a literal of one character is stepped over whole.
fn step(part: Part, characters: &[char], at: usize) -> (Part, usize) {
    let two = |first, second| characters[at] == first && characters.get(at + 1) == Some(&second);
    match part {
        Part::Code if two('/', '/') => (Part::LineComment, 2),
        Part::Code if two('/', '*') => (Part::BlockComment(1), 2),
        Part::Code => match raw_string_hashes(characters, at) {
            Some((hashes, length)) => (Part::RawText(hashes), length),
            None if characters[at] == '"' => (Part::Text(false), 1),
            None => (Part::Code, character_literal(characters, at).unwrap_or(1)),
        },
        Part::LineComment if characters[at] == '\n' => (Part::Code, 1),
        Part::LineComment => (part, 1),
        Part::BlockComment(depth) if two('/', '*') => (Part::BlockComment(depth + 1), 2),
        Part::BlockComment(1) if two('*', '/') => (Part::Code, 2),
        Part::BlockComment(depth) if two('*', '/') => (Part::BlockComment(depth - 1), 2),
        Part::BlockComment(_) => (part, 1),
        Part::Text(false) if characters[at] == '"' => (Part::Code, 1),
        Part::Text(escaped) => (Part::Text(!escaped && characters[at] == '\\'), 1),
        Part::RawText(hashes) => {
            let closes =
                characters[at] == '"' && characters[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
            if closes { (Part::Code, 1 + hashes) } else { (part, 1) }
        }
    }
}

/// The hashes of the raw string that opens at `at`, and the length of its opening.
fn raw_string_hashes(characters: &[char], at: usize) -> Option<(usize, usize)> {
    let begins_word = at == 0 || !is_word(characters[at - 1]) || characters[at - 1] == 'b';
    if characters[at] != 'r' || !begins_word {
        return None;
    }
    let hashes = characters[at + 1..].iter().take_while(|c| **c == '#').count();
    (characters.get(at + 1 + hashes) == Some(&'"')).then_some((hashes, hashes + 2))
}

/// The length of a character literal at `at`, which a lifetime is not.
fn character_literal(characters: &[char], at: usize) -> Option<usize> {
    const LONGEST: usize = 12; // '\u{10FFFF}'
    if characters[at] != '\'' {
        return None;
    }
    let first = *characters.get(at + 1)?;
    if first != '\\' {
        return (characters.get(at + 2) == Some(&'\'')).then_some(3);
    }
    // What is escaped may be a quote itself, so the search for the end begins behind it.
    let rest = characters.get(at + 3..)?;
    rest.iter().take(LONGEST).position(|c| *c == '\'').map(|offset| offset + 4)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The name in a line that begins a function: only modifiers may stand before its `fn`.
fn function_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let is_modifier =
        |word: &str| matches!(word, "const" | "async" | "extern" | "default" | "unsafe") || word.starts_with("pub");
    let first = words.by_ref().find(|word| !is_modifier(word))?;
    if first != "fn" {
        return None;
    }
    Some(words.next()?.chars().take_while(|c| is_word(*c)).collect())
}

/// How many lines pass until the braces that open behind `from` are closed; none for a function without a body.
fn lines_of_body(lines: &[&str], from: usize) -> Option<usize> {
    let (mut braces, mut others) = (0_usize, 0_usize);
    for (index, line) in lines.iter().enumerate() {
        for character in line.chars().skip(if index == 0 { from } else { 0 }) {
            match character {
                '(' | '[' => others += 1,
                ')' | ']' => others = others.saturating_sub(1),
                '{' => braces += 1,
                '}' if braces <= 1 => return Some(index + 1),
                '}' => braces -= 1,
                // In brackets it is the length of an array, as in `[u8; 4]`.
                ';' if braces == 0 && others == 0 => return None,
                _ => {}
            }
        }
    }
    None
}

/// The lines of `text` that contain `word` with nothing of a word around it, numbered from 1.
pub fn lines_with_word<'a>(text: &'a str, word: &str) -> impl Iterator<Item = usize> + 'a {
    let word = word.to_owned();
    text.lines().enumerate().filter(move |(_, line)| contains_word(line, &word)).map(|(index, _)| index + 1)
}

fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_word);
        let after = line[at + word.len()..].chars().next().is_some_and(is_word);
        !before && !after
    })
}

#[cfg(test)]
mod tests {
    use super::{Function, Source, lines_with_word};

    #[test]
    fn comments_and_literals_are_not_code() {
        let source =
            Source::parse("let a = \"// no \\\" {\"; // yes {\nlet b = '\"'; /* in /* nested */ still */ c('a, b)");
        let code: String = source.code.split_whitespace().collect();
        assert_eq!(code, "leta=\";letb=;c('a,b)");
        assert!(source.comments.contains("// yes {") && source.comments.contains("still */"));
        assert!(!source.comments.contains("no"));
    }

    #[test]
    fn raw_strings_end_at_their_own_quote() {
        let source = Source::parse("x(r#\"a \" unsafe \"#); br\"unsafe\"; for_(\"y\")");
        assert_eq!(lines_with_word(&source.code, "unsafe").count(), 0, "{}", source.code);
        assert!(source.code.contains("for_("));
    }

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let text = "trait T {\n  fn none(&self) -> [u8; 4];\n}\npub(crate) async fn some(\n  a: u8,\n) {\n  if a { '{' }\n}\n// fn not() {}\n";
        let some = Function { name: "some".to_owned(), line: 4, lines: 5 };
        assert_eq!(Source::parse(text).functions(), [some]);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(lines_with_word("a\nunsafe_code\n(unsafe)\n", "unsafe").collect::<Vec<_>>(), [3]);
    }
}

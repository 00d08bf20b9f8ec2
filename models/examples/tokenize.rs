//! Tokenizes strings as a model would: `tokenize MODEL.gguf [--parse-special] [--add-special]` reads one JSON string a line and
//! writes one JSON object a line, `{"ids": [...], "text": "what the ids read back as"}`. Driven by `tests/oracles/tokenizer_oracle.py`.

use std::error::Error;
use std::io::{BufRead, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use models::{Detokenizer, Gguf, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (flags, paths): (Vec<&str>, Vec<&str>) = arguments.iter().map(String::as_str).partition(|argument| argument.starts_with("--"));
    let [path] = paths.as_slice() else { return Err("usage: tokenize MODEL.gguf [--parse-special] [--add-special]".into()) };
    if let Some(flag) = flags.iter().find(|flag| !["--parse-special", "--add-special"].contains(flag)) {
        return Err(format!("unknown flag {flag}").into());
    }
    let (parse_special, add_special) = (flags.contains(&"--parse-special"), flags.contains(&"--add-special"));

    let tokenizer = Arc::new(Tokenizer::from_gguf(&Gguf::open(Path::new(path))?)?);
    let mut out = BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let ids = match add_special {
            true => tokenizer.encode_with_specials(&text, parse_special)?,
            false => tokenizer.encode(&text, parse_special)?,
        };
        let mut detokenizer = Detokenizer::new(tokenizer.clone());
        let mut read_back: String = ids.iter().map(|id| detokenizer.push(*id)).collect();
        read_back.push_str(&detokenizer.finish());
        writeln!(out, "{}", serde_json::json!({ "ids": ids, "text": read_back }))?;
    }
    Ok(())
}

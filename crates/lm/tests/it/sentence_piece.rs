//! Tokenizers of SentencePiece, as the families have them: BPE with a space before every text and without, and unigram, all with bytes for what they do not
//! know.
//!
//! The ids are those that SentencePiece itself gives: scripts/oracle/sentence_piece.py. There a special token that a text spells is text, and here; such texts
//! are compared by what they come back as.

use std::path::Path;

use rlhf_lm::{TextStream, Tokenizer};
use serde_json::{Value, json};

#[test]
fn blanks_bytes_and_spelled_special_tokens_are_what_sentence_piece_makes_of_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/sentence-piece");
    for kind in ["bpe-prefixed", "bpe", "unigram"] {
        let file = fs_err::read(folder.join(format!("{kind}.json"))).unwrap();
        let roles = json!({"bos_token": "<s>", "eos_token": "</s>"});
        let roles = roles.as_object().unwrap().clone();
        let tokenizer = Tokenizer::from_bytes(&file, roles).unwrap();
        let specials = ["<unk>", "<s>", "</s>"];
        let expected = fs_err::read(folder.join(format!("{kind}.expected.json"))).unwrap();
        let expected: Vec<Value> = serde_json::from_slice(&expected).unwrap();
        assert!(expected.len() > 5);
        for row in expected {
            let text = row["text"].as_str().unwrap();
            let wanted: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
            let ids = tokenizer.encode_text(text).unwrap();
            let spells = specials.iter().any(|special| text.contains(special));
            assert!(
                spells || ids == wanted,
                "{kind}: {text:?}: {ids:?}, {wanted:?}"
            );
            let ids_of_specials = specials.map(|special| tokenizer.token_id(special).unwrap());
            assert!(
                ids.iter().all(|id| !ids_of_specials.contains(id)),
                "{kind}: {text:?}"
            );
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{kind}");
            // Piece by piece, as answers are shown.
            let mut stream = TextStream::new(&tokenizer, &[]);
            let mut streamed: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
            streamed += &stream.waiting().unwrap();
            assert_eq!(streamed, text, "{kind}");
        }
    }
}

//! `rlhf export`: models as GGUF files, which our own commands read too.

use serde_json::Value;

use crate::folder::{Folder, gguf};

fn scores(folder: &Folder, model: &str) -> Vec<f64> {
    let text = folder.done(&format!(
        "score --model {model} --data demos.jsonl --json --quiet"
    ));
    let rows = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| row["answer_perplexity"].as_f64().unwrap())
        .collect()
}

/// Half precision keeps 11 bits of each weight, so that a perplexity moves in its fourth digit.
#[test]
fn a_run_becomes_a_file_that_gives_the_same_probabilities() {
    let folder = Folder::pipeline();
    folder.done("sft --model base --data demos.jsonl --lora 2 --lr 1e-2 --quiet");
    let printed = folder.done("export runs/sft --gguf f16 --ollama --quiet");
    assert!(printed.starts_with("runs/sft-f16.gguf: "), "{printed}");
    assert!(
        printed.contains("next: ollama create sft -f runs/sft-f16.Modelfile"),
        "{printed}"
    );
    let recipe = folder.read("runs/sft-f16.Modelfile");
    let expected = "FROM ./sft-f16.gguf\nTEMPLATE \"\"\"{{ .Prompt }}\"\"\"\nPARAMETER stop \"<|endoftext|>\"\nPARAMETER num_ctx 256\n";
    assert_eq!(recipe, expected);

    // An adapter is exported as the model that `rlhf merge` makes of it.
    folder.done("merge runs/sft --out whole/sft --quiet");
    folder.done("export whole/sft --gguf f16 --quiet");
    let read = |file: &str| fs_err::read(folder.path(file)).unwrap();
    assert!(read("runs/sft-f16.gguf") == read("whole/sft-f16.gguf"));
    let (before, after) = (
        scores(&folder, "runs/sft"),
        scores(&folder, "runs/sft-f16.gguf"),
    );
    for (before, after) in before.iter().zip(&after) {
        assert!((before / after - 1.0).abs() < 1e-3, "{before} {after}");
    }

    let line = "export runs/sft --gguf q4_k_m --out out/m.gguf --json --quiet";
    let result: Value = serde_json::from_str(&folder.done(line)).unwrap();
    assert_eq!(result["out"], "out/m.gguf");
    assert_eq!(result["bytes"], read("out/m.gguf").len());
    // Rows of 16 numbers fill no block.
    let fallbacks = result["fallbacks"].as_array().unwrap();
    assert!(
        fallbacks
            .iter()
            .any(|f| f["tensor"] == "blk.0.attn_qkv.weight" && f["used"] == "F16"),
        "{result}"
    );
    let halves = fallbacks.iter().filter(|f| f["used"] == "F16").count();
    assert_eq!(result["tensors"]["F16"], halves);
    folder.done("score --model out/m.gguf --data demos.jsonl --quiet");
}

#[test]
fn what_cannot_be_exported_says_why() {
    let folder = Folder::pipeline();
    folder.done("reward --model base --prefs prefs.jsonl --quiet");
    let says = |line: &str, what: &str| {
        let said = folder.refused(line);
        assert!(said.contains(what), "{line}\n{said}");
    };
    says("export runs/reward --gguf f16", "is a reward model");
    says(
        "export base --gguf q5_k_m",
        "possible values: f16, q8_0, q4_0, q4_k_m",
    );
    says("export base --gguf f16 --out base.bin", "ends with .gguf");
    says("export base", "<--gguf <TYPE>|--hf>");
    says(
        "export runs/nothing --gguf f16",
        "runs/nothing does not exist",
    );
    folder.write("base-f16.Modelfile", "mine");
    says(
        "export base --gguf f16 --ollama",
        "base-f16.Modelfile exists",
    );
    folder.done("export base --gguf F16 --quiet");
    says("export base --gguf f16", "base-f16.gguf exists");
    // A GGUF file is a model as any other.
    fs_err::copy(gguf(), folder.path("m.gguf")).unwrap();
    folder.done("export m.gguf --gguf q8_0 --quiet");
    assert!(folder.path("m-q8_0.gguf").is_file());
}

#[test]
fn a_directory_of_its_own_has_a_card_of_what_was_recorded() {
    let folder = Folder::pipeline();
    folder.done(
        "sft --model base --data demos.jsonl --eval-data demos.jsonl --lora 2 --lr 1e-2 --quiet",
    );
    folder.done("dpo --model runs/sft --prefs prefs.jsonl --quiet");
    folder.done("export runs/dpo --hf --license mit --quiet");
    let card = folder.read("runs/dpo-hf/README.md");
    let base = "---\nlibrary_name: transformers\npipeline_tag: text-generation\n";
    assert!(card.starts_with(base), "{card}");
    let sum = |file: &str| {
        let inputs: Value = serde_json::from_str(&folder.read("runs/dpo/inputs.json")).unwrap();
        inputs["sha256"][file].as_str().unwrap().to_owned()
    };
    let sum = format!("| `prefs.jsonl` | `{}` |", sum("prefs.jsonl"));
    for part in [
        "license: mit",
        "- sft\n- dpo",
        "# dpo",
        "### 1. ",
        "### 2. ",
        &sum,
        "![",
        "rank = 2",
    ] {
        assert!(card.contains(part), "{part}\n{card}");
    }
    assert!(folder.read("runs/dpo-hf/curves.svg").starts_with("<svg"));
    let read = |file: &str| fs_err::read(folder.path(file)).unwrap();
    assert!(read("runs/dpo-hf/model.safetensors") == read("runs/dpo/final/model.safetensors"));
    assert!(
        folder
            .refused("export runs/dpo --hf")
            .contains("runs/dpo-hf exists")
    );

    // An adapter becomes whole, a reward model stays what it is.
    folder.done("export runs/sft --hf --quiet");
    folder.done("merge runs/sft --quiet");
    assert!(read("runs/sft-hf/model.safetensors") == read("runs/sft-merged/model.safetensors"));
    folder.done("reward --model base --prefs prefs.jsonl --quiet");
    folder.done("export runs/reward --hf --quiet");
    assert!(
        folder
            .read("runs/reward-hf/README.md")
            .contains("pipeline_tag: text-classification")
    );
    folder.done("score --model runs/reward-hf --data prefs.jsonl --quiet");
    assert!(
        folder
            .refused("export base --hf --gguf f16")
            .contains("cannot be used with")
    );
}

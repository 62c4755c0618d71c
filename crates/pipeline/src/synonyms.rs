//! What other programs call our settings, for "did you mean".

/// What other programs call a setting, and what it may be here.
const SYNONYMS: &[(&str, &[&str])] = &[
    ("adam_epsilon", &["adam_eps"]),
    ("batch_size", &["batch"]),
    ("beta", &["kl_coef"]),
    ("block_size", &["context", "max_length"]),
    ("clip_epsilon", &["clip"]),
    ("clip_range", &["clip"]),
    ("cliprange", &["clip"]),
    ("cliprange_value", &["value_clip"]),
    ("cutoff_len", &["max_length"]),
    ("dataset", &["data", "prefs", "prompts"]),
    ("discount", &["gamma"]),
    ("ent_coef", &["entropy_coef"]),
    ("entropy", &["entropy_coef"]),
    ("eval_steps", &["eval_every"]),
    ("gae_lambda", &["lambda"]),
    ("gradient_clip", &["max_grad_norm"]),
    ("grad_clip", &["max_grad_norm"]),
    ("init_kl_coef", &["kl_coef"]),
    ("kl", &["kl_coef"]),
    ("kl_beta", &["kl_coef"]),
    ("lam", &["lambda"]),
    ("learning_rate", &["lr"]),
    ("loss_type", &["loss"]),
    ("lr_scheduler", &["schedule"]),
    ("lr_scheduler_type", &["schedule"]),
    ("max_len", &["max_length", "response_length"]),
    ("max_new_tokens", &["response_length"]),
    ("max_seq_len", &["max_length"]),
    ("max_seq_length", &["max_length"]),
    ("max_steps", &["steps"]),
    ("max_tokens", &["response_length", "max_length"]),
    ("min_new_tokens", &["min_response_length"]),
    ("model_name", &["model"]),
    ("model_name_or_path", &["model"]),
    ("n_head", &["heads"]),
    ("n_layer", &["layers"]),
    ("num_attention_heads", &["heads"]),
    ("num_epochs", &["epochs"]),
    ("num_generations", &["samples_per_prompt"]),
    ("num_hidden_layers", &["layers"]),
    ("num_key_value_heads", &["kv_heads"]),
    ("num_mini_batches", &["minibatches"]),
    ("num_minibatches", &["minibatches"]),
    ("num_ppo_epochs", &["epochs"]),
    ("num_train_epochs", &["epochs"]),
    ("output", &["out"]),
    ("output_dir", &["out"]),
    ("per_device_train_batch_size", &["batch"]),
    ("ppo_epochs", &["epochs"]),
    ("reward_model", &["reward"]),
    ("reward_model_path", &["reward"]),
    ("rm", &["reward"]),
    ("rollouts", &["batch", "samples_per_prompt"]),
    ("save_steps", &["save_every"]),
    ("scheduler", &["schedule"]),
    ("temp", &["temperature"]),
    ("train_data", &["data", "prefs", "prompts"]),
    ("train_file", &["data", "prefs", "prompts"]),
    ("val_data", &["eval_data", "eval_prefs", "eval_prompts"]),
    ("val_fraction", &["eval_fraction"]),
    ("vf_coef", &["value_coef"]),
    ("vocab", &["vocab_size"]),
    ("warmup_steps", &["warmup"]),
    ("wd", &["weight_decay"]),
];

/// The setting that people mean by `word`, of those that `has` knows.
pub(crate) fn synonym(word: &str, has: impl Fn(&str) -> bool) -> Option<&'static str> {
    let word = word.replace('-', "_").to_lowercase();
    let (_, names) = SYNONYMS.iter().find(|(other, _)| *other == word)?;
    names.iter().copied().find(|name| has(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::sections;

    #[test]
    fn a_synonym_is_no_setting_and_means_one() {
        let sections = sections();
        let has = |name: &str| {
            let mut settings = sections.iter().flat_map(|section| &section.settings);
            settings.any(|setting| setting.name == name)
        };
        for (i, (word, names)) in SYNONYMS.iter().enumerate() {
            for section in &sections {
                let has = |name: &str| section.settings.iter().any(|setting| setting.name == name);
                let meant = names.iter().any(|name| has(name));
                assert!(
                    !(meant && has(word)),
                    "{word} is a setting beside what it means"
                );
            }
            assert!(names.iter().all(|name| has(name)), "{word}: {names:?}");
            assert!(
                SYNONYMS[..i].iter().all(|(other, _)| other != word),
                "{word}"
            );
        }
        assert_eq!(synonym("Learning-Rate", has), Some("lr"));
        assert_eq!(
            synonym("max_new_tokens", |name| name == "temperature"),
            None
        );
    }
}

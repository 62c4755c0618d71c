//! PPO by adapters: one base for policy, reference, reward model and critic.

use rlhf_lm::{Calibration, HeadInit, LoraConfig, RewardCard, RewardModel, ScalarModel};

use super::*;

/// A session that trains adapters of rank 2, and the configuration of a policy whose reward model is such an adapter.
fn adapted(dir: &Path) -> (Config, Session) {
    let base = dir.join("base");
    fs_err::create_dir(&base).unwrap();
    let lora = LoraConfig {
        rank: 2,
        ..LoraConfig::default()
    };
    let session = Session {
        lora: Some(lora),
        ..session()
    };
    let config = Config {
        reward: dir.join("reward").display().to_string(),
        ..config(&base)
    };
    let model = session.trainable(&base).unwrap();
    let head = HeadInit::Normal { seed: 3 };
    let params = ScalarModel::params_over(&model.config, &model.params, head).unwrap();
    let card = RewardCard {
        calibration: Some(Calibration {
            mean: 0.0,
            std: 1.0,
            responses: 4,
        }),
        ..RewardCard::default()
    };
    RewardModel::save(
        &dir.join("reward"),
        &model.config,
        &params,
        &model.tokenizer,
        &card,
    )
    .unwrap();
    (config, session)
}

/// By definition: one base; adapters of policy, reward model and critic, the latter two with a head. The reference of a fresh adapter is
/// the base itself, so that policy and reference agree to the last bit.
#[test]
fn a_step_holds_one_base_and_the_reference_is_the_policy_without_its_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let (config, session) = adapted(dir.path());
    let mut ppo = prepare(&config, &session);
    ppo.step(0).unwrap();
    let whole = LanguageModel::load(
        &dir.path().join("base"),
        rlhf_lm::Weights::Frozen,
        DType::F32,
        &Device::Cpu,
    );
    let base = whole.unwrap().params.bytes();
    let adapter = 4 * ppo.policy.params.num_trainable();
    let head = 4 * ppo.language_model.config.hidden_size();
    let reward = ppo.reward.model().unwrap().params();
    let critic = ppo.critic.as_ref().unwrap().params();
    assert_eq!(critic.num_trainable(), (adapter + head) / 4);
    let held = [&ppo.policy.params, &ppo.reference_params, reward, critic];
    assert_eq!(Params::bytes_together(held), base + 3 * adapter + 2 * head);
    assert_eq!(ppo.reference_params.num_parameters(), base / 4);
    assert!(ppo.checked.policy && ppo.checked.critic);
}

#[test]
fn without_a_reward_model_the_critic_is_an_adapter_over_the_policys_base() {
    let dir = tempfile::tempdir().unwrap();
    let (config, session) = adapted(dir.path());
    for critic in [CriticKind::Separate, CriticKind::Shared] {
        let config = Config {
            reward: "length:3".into(),
            critic,
            ..config.clone()
        };
        let mut ppo = prepare(&config, &session);
        let before = ppo.policy.params.trained();
        ppo.step(0).unwrap();
        let critic = ppo.critic.as_ref().unwrap().params();
        let head = 4 * ppo.language_model.config.hidden_size();
        let adapter = 4 * ppo.language_model.params.num_trainable();
        let base = ppo.reference_params.bytes();
        let held = Params::bytes_together([&ppo.policy.params, &ppo.reference_params, critic]);
        let adapters = match config.critic {
            CriticKind::Separate => 2,
            CriticKind::Shared => 1,
        };
        assert_eq!(held, base + adapters * adapter + head);
        assert_eq!(
            before.keys().filter(|name| name.contains("lora")).count(),
            2 * 8
        );
    }
}

use super::*;

fn error(result: anyhow::Result<()>) -> String {
    format!("{:#}", result.unwrap_err())
}

#[test]
fn a_later_layer_wins_and_the_rest_keeps_its_default() {
    let mut layers = Layers::default();
    layers
        .add("a.toml", "[run]\nseed = 1\nthreads = 2".parse().unwrap())
        .unwrap();
    layers.set("run.seed=7").unwrap();
    layers.set("run.device=cpu").unwrap();
    let run: RunSettings = layers.get(RUN).unwrap();
    let expected = RunSettings {
        seed: 7,
        threads: 2,
        device: "cpu".into(),
        ..RunSettings::default()
    };
    assert_eq!(run, expected);
}

#[test]
fn the_map_of_all_data_is_that_of_every_stage_without_one_of_its_own() {
    let mut layers = Layers::default();
    let file = "[data.map]\nprompt = 'q.text'\n[sft]\nmap = 'prompt=a'";
    layers.add("a.toml", file.parse().unwrap()).unwrap();
    let sft: rlhf_sft::Config = layers.get("sft").unwrap();
    assert_eq!(sft.training.data.map.to_string(), "prompt=a");
    let reward: rlhf_reward::Config = layers.get("reward").unwrap();
    assert_eq!(reward.training.data.map.to_string(), "prompt=q.text");
    layers.get::<RunSettings>(RUN).unwrap();
    for (file, part) in [
        ("[data]\nmaps = 1", "no setting \"maps\""),
        (
            "[data.map]\npromt = 'q'",
            "a.toml: data.map: \"promt\" is no part of a row",
        ),
    ] {
        let said = error(layers.add("a.toml", file.parse().unwrap()));
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn every_error_names_the_origin_the_key_and_a_way_out() {
    let mut layers = Layers::default();
    let unknown = error(layers.add("a.toml", "[run]\nsede = 1".parse().unwrap()));
    assert_eq!(
        unknown,
        "a.toml: [run] has no setting \"sede\"; did you mean \"seed\"?"
    );
    let section = error(layers.add("a.toml", "[rum]\nseed = 1".parse().unwrap()));
    assert_eq!(
        section,
        "a.toml: there is no section [rum]; did you mean \"run\"?"
    );
    let kind = error(layers.set("run.seed=many"));
    assert!(
        kind.starts_with("--set run.seed=many: run.seed is \"many\": it must be a whole number"),
        "{kind}"
    );
    assert!(error(layers.set("seed")).contains("SECTION.KEY=VALUE"));
    assert!(error(layers.add("a.toml", "run = 1".parse().unwrap())).contains("must be a section"));
}

#[test]
fn a_variant_has_its_own_settings_over_those_of_its_section() {
    let mut layers = Layers::default();
    let file = "[ppo]\nsteps = 7\nbatch = 8\n[ppo.variants.rloo]\nadvantage = 'rloo'\nsamples_per_prompt = 2\n[ppo.variants.calm]\nsteps = 3";
    layers.add("a.toml", file.parse().unwrap()).unwrap();
    layers.set("ppo.batch=16").unwrap();
    let ppo = STAGES.iter().find(|stage| stage.name() == "ppo").unwrap();
    let parts = layers.parts(*ppo);
    let names: Vec<&str> = parts.iter().map(Part::name).collect();
    assert_eq!(names, ["ppo", "calm", "rloo"]);
    let of = |part: &Part, key: &str| layers.configure(part).unwrap().to_table()[key].clone();
    for (part, steps) in parts.iter().zip([7, 3, 7]) {
        assert_eq!(of(part, "steps").as_integer(), Some(steps));
        assert_eq!(of(part, "batch").as_integer(), Some(16));
    }
    assert!(parts[2].sets("advantage") && !parts[2].sets("steps"));
    for (file, part) in [
        (
            "[ppo.variants.x]\nadvantag = 'rloo'",
            "[ppo.variants.x] has no setting \"advantag\"; did you mean \"advantage\"?",
        ),
        (
            "[ppo.variants.x]\nclip = 2",
            "ppo.variants.x.clip is 2: it must be",
        ),
        (
            "[ppo.variants.sft]\nsteps = 2",
            "something else in a pipeline is called sft",
        ),
        (
            "[sft.variants.rloo]\nsteps = 2",
            "something else in a pipeline is called rloo",
        ),
        ("[ppo.variants.'a/b']\nsteps = 2", "the name of a folder"),
        ("[ppo]\nvariants = 2", "[ppo.variants.NAME]"),
        (
            "[run.variants.x]\nseed = 2",
            "[run] has no setting \"variants\"",
        ),
    ] {
        let said = error(layers.clone().add("a.toml", file.parse().unwrap()));
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn every_configuration_of_the_repository_is_valid() {
    let configs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
    let mut checked = 0;
    for entry in fs_err::read_dir(configs).unwrap() {
        let path = entry.unwrap().path();
        let layers = Layers::read(Some(&path), &[]).unwrap();
        for &stage in STAGES {
            for part in layers.parts(stage) {
                layers.configure(&part).unwrap().validate().unwrap();
            }
        }
        checked += 1;
    }
    assert!(checked >= 2, "{checked}");
}

/// The one check of numbers, over every setting there is.
#[test]
fn every_number_has_a_range_and_what_is_outside_is_refused_by_name() {
    let has_number = |value: &Value| match value {
        Value::Table(table) => table.values().any(|v| v.is_integer() || v.is_float()),
        value => value.is_integer() || value.is_float(),
    };
    let mut tried = 0;
    for section in sections() {
        for setting in &section.settings {
            let name = format!("{}.{}", section.name, setting.name);
            let typed = ["f64", "usize", "u64"]
                .iter()
                .any(|number| setting.type_name.contains(number));
            let number = typed || setting.default.as_ref().is_some_and(has_number);
            assert_eq!(number, setting.range.is_some(), "{name}");
            let Some(range) = setting.range else { continue };
            if let Some(default) = setting.default.as_ref().filter(|d| !d.is_table()) {
                let text = format!("[{}]\n{} = {default}", section.name, setting.name);
                Layers::default().add("a", text.parse().unwrap()).unwrap();
            }
            let outside = range.outside().into_iter().map(|x| x.to_string());
            for bad in outside.chain(["nan", "inf", "-inf"].map(str::to_owned)) {
                let value = match typed {
                    true => bad,
                    false => format!("{{ replace = {bad} }}"),
                };
                let said = error(Layers::default().set(&format!("{name}={value}")));
                let expected = said.ends_with(&format!("it must be {range}"));
                assert!(said.contains(&format!("{name} is ")) && expected, "{said}");
                tried += 1;
            }
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn a_value_that_is_not_in_the_list_is_told_the_list() {
    for (set, expected) in [
        (
            "ppo.kl_estimator=k9",
            "ppo.kl_estimator is \"k9\": it must be one of k1, k2, k3",
        ),
        ("ppo.variance=x", "one of population, unbiased"),
        (
            "ppo.missing_eos=x",
            "one of { replace = X }, { subtract = X }, none",
        ),
        ("sft.schedule=x", "one of constant, linear, cosine"),
        (
            "sft.batch=two",
            "sft.batch is \"two\": it must be a whole number from 1 to 1e6",
        ),
    ] {
        let said = error(Layers::default().set(set));
        assert!(said.ends_with(expected), "{said}");
    }
}

#[test]
fn optional_settings_are_known_by_name_and_a_beginning_hints_at_the_whole() {
    let mut layers = Layers::default();
    layers.set("run.out=elsewhere").unwrap();
    let said = error(layers.set("sft.micro_batch=4"));
    assert!(
        said.contains("did you mean \"micro_batch_tokens\"?"),
        "{said}"
    );
}

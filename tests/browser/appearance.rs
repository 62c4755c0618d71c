//! How a page looks, on a phone and on a desk, in light and in dark: screenshots, and what can be checked without eyes.

use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::browser::{Browser, missing};

/// The folder of the pictures, `NAME-WIDTH-SCHEME.png` each, for a person to look at.
fn screenshots() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("../screenshots")
}

impl Browser {
    /// Takes a picture of the whole page at 390 and 1280 pixels, light and dark; that nothing sticks out at the side, and that
    /// axe-core finds nothing serious: contrast, labels, roles, order of headings.
    pub(crate) fn assert_looks_right(&self, name: &str) {
        let axe = axe();
        for (width, mobile) in [(390, true), (1280, false)] {
            for scheme in ["light", "dark"] {
                let scheme_feature = json!({"name": "prefers-color-scheme", "value": scheme});
                // A picture of a colour that still changes would be neither.
                let still = json!({"name": "prefers-reduced-motion", "value": "reduce"});
                let media = json!({"features": [scheme_feature, still]});
                self.session.devtools("Emulation.setEmulatedMedia", media);
                self.resize(width, 900, mobile);
                let height = self.script("return document.documentElement.scrollHeight");
                self.resize(width, height.as_u64().unwrap().clamp(900, 8000), mobile);
                self.picture(&format!("{name}-{width}-{scheme}"));

                let out = self.script("return document.documentElement.scrollWidth - innerWidth");
                assert!(
                    out.as_i64().unwrap() <= 0,
                    "{name} at {width} px is {out} px too wide"
                );
                if let Some(axe) = &axe {
                    let found = self.violations(axe);
                    assert!(found.is_empty(), "{name}, {width} px, {scheme}: {found:#?}");
                }
            }
        }
        self.session
            .devtools("Emulation.clearDeviceMetricsOverride", json!({}));
    }

    /// Sets the size of the page.
    pub(crate) fn resize(&self, width: u64, height: u64, mobile: bool) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.session
            .devtools("Emulation.setDeviceMetricsOverride", size);
    }

    /// Saves what the window shows.
    pub(crate) fn picture(&self, name: &str) {
        let taken = self.session.call("GET", "/screenshot", Value::Null);
        let png = BASE64_STANDARD.decode(taken.as_str().unwrap());
        let folder = screenshots();
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::write(folder.join(format!("{name}.png")), png.unwrap()).unwrap();
    }

    /// What axe-core calls serious or critical in the page: rule, help and the elements concerned.
    fn violations(&self, axe: &str) -> Vec<Value> {
        self.script(axe);
        let run = "const done = arguments[arguments.length - 1];
            axe.run(document, { resultTypes: ['violations'] }).then(
                (found) => done(found.violations
                    .filter((v) => ['serious', 'critical'].includes(v.impact))
                    .map((v) => [v.id, v.help, v.nodes.map((n) => n.html + ' ' + n.failureSummary)])),
                (error) => done([String(error)]));";
        let script = json!({"script": run, "args": []});
        let found = self.session.call("POST", "/execute/async", script);
        found.as_array().unwrap().clone()
    }
}

/// The source of axe-core, where it is installed.
pub(crate) fn axe() -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/browser/node_modules/axe-core/axe.min.js");
    fs_err::read_to_string(path)
        .ok()
        .or_else(|| missing("axe-core is not installed"))
}

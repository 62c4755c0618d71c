//! HTML escaping, the elements that pages are made of, and the page around a body.

use std::fmt::Write as _;

use crate::chart::COLOURS;

/// `text` as HTML that shows exactly these characters, in element content and in quoted attributes alike.
///
/// Characters that HTML forbids even as references (controls other than tab and line ends) become U+FFFD, so a
/// response full of raw bytes cannot make the page invalid.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The style of every page that is a file.
pub(crate) const STYLE: &str = concat!(
    include_str!("assets/base.css"),
    include_str!("assets/chart.css"),
    include_str!("assets/report.css"),
);

/// A whole page around `body`, with the style sheet inside.
pub(crate) fn page(title: &str, body: &str) -> String {
    let mut out = String::with_capacity(body.len() + STYLE.len() + 512);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escape(title),
    );
    out
}

/// A figure: `drawn` is HTML, the rest is text. The heading has the name in `metrics.jsonl` beside it where that differs.
pub(crate) fn figure(body: &mut String, heading: Option<(&str, &str)>, drawn: &str, text: &str) {
    body.push_str("<figure>\n");
    // Writing to a String cannot fail, so the results here and below carry nothing.
    if let Some((title, metric)) = heading {
        let code = match metric {
            "" => String::new(),
            metric if metric == title => String::new(),
            metric => format!(" <code>{}</code>", escape(metric)),
        };
        let _ = writeln!(body, "<h3>{}{code}</h3>", escape(title));
    }
    let _ = writeln!(
        body,
        "{drawn}<figcaption>{}</figcaption>\n</figure>",
        escape(text)
    );
}

/// What is only seen once it is opened. The `id`, unlike any other of the page, is by what a page that reloads itself knows it again.
pub(crate) fn fold(body: &mut String, id: &str, summary: &str, inner: &str) {
    let _ = writeln!(
        body,
        "<details id=\"{}\">\n<summary>{}</summary>\n{inner}</details>",
        escape(&id.replace(char::is_whitespace, "-")),
        escape(summary)
    );
}

/// The colours of a chart's names, each with something to say of it.
pub(crate) fn legend<'a>(
    body: &mut String,
    names: impl Iterator<Item = (&'a str, Option<String>)>,
) {
    body.push_str("<ul class=\"legend\">\n");
    for (i, (name, note)) in names.enumerate() {
        let note = note.map(|note| format!(" <span class=\"soft\">{}</span>", escape(&note)));
        let _ = writeln!(
            body,
            "<li><svg viewBox=\"0 0 20 10\" aria-hidden=\"true\"><line class=\"line s{}\" x1=\"1\" x2=\"19\" y1=\"5\" y2=\"5\"/></svg>{}{}</li>",
            i % COLOURS,
            escape(name),
            note.unwrap_or_default()
        );
    }
    body.push_str("</ul>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(
            escape("<script>\"a\" & 'b'</script>"),
            "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;"
        );
        assert_eq!(escape("tab\tline\nbell\u{7}"), "tab\tline\nbell\u{fffd}");
        assert_eq!(escape("größer 猫"), "größer 猫");
        let mut out = String::new();
        figure(&mut out, Some(("<a>", "b\"")), "", "<c>");
        fold(&mut out, "x y\"", "<d>", "");
        for raw in ["<a>", "b\"<", "<c>", "y\"\"", "<d>"] {
            assert!(!out.contains(raw), "{raw} in {out}");
        }
        assert!(out.contains("id=\"x-y&quot;\""));
    }

    #[test]
    fn the_page_loads_nothing_from_the_network() {
        let page = page("t", "");
        for needle in [
            "http://", "https://", "src=", "@import", "url(", "<script", "<link",
        ] {
            assert!(!page.contains(needle), "{needle} in the empty page");
        }
    }
}

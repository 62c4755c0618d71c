//! Guidelines: Markdown as HTML that holds nothing but text, lists, tables and links.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html::push_html};

/// `markdown` as HTML. Markup in it is shown as text, an image becomes its description, and a link leads to the web, to a mail address
/// or within the page.
pub(super) fn html(markdown: &str) -> String {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut allowed = Vec::new(); // of the links that are open
    let events = Parser::new_ext(markdown, options).filter_map(move |event| match event {
        Event::Html(markup) | Event::InlineHtml(markup) => Some(Event::Text(markup)),
        // Alignment would be a style within the page, which its policy forbids.
        Event::Start(Tag::Table(columns)) => Some(Event::Start(Tag::Table(vec![
            pulldown_cmark::Alignment::None;
            columns.len()
        ]))),
        Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => None,
        Event::Start(Tag::Link { dest_url, .. }) if !leads_out(&dest_url) => {
            allowed.push(false);
            None
        }
        Event::Start(Tag::Link { .. }) => {
            allowed.push(true);
            Some(event)
        }
        Event::End(TagEnd::Link) => allowed.pop().unwrap_or(false).then_some(event),
        // A task that could be ticked would be forgotten with the page.
        Event::TaskListMarker(done) => Some(Event::Text(CowStr::Borrowed(if done {
            "☑ "
        } else {
            "☐ "
        }))),
        event => Some(event),
    });
    let mut out = String::new();
    push_html(&mut out, events);
    out
}

fn leads_out(url: &str) -> bool {
    let url = url.to_ascii_lowercase();
    ["https://", "http://", "mailto:", "#"]
        .iter()
        .any(|start| url.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_html() {
        let text = "# Be fair\n\n- *short*\n- **true**\n\n| a | b |\n|--:|---|\n| 1 | 2 |\n\n[paper](https://arxiv.org/abs/2203.02155)";
        let html = html(text);
        for part in [
            "<h1>Be fair</h1>",
            "<li><em>short</em></li>",
            "<td>1</td>",
            "<a href=\"https://arxiv.org/abs/2203.02155\">paper</a>",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert!(!html.contains("style="), "{html}");
    }

    #[test]
    fn nothing_in_it_runs_or_is_loaded() {
        let text = "<b onclick=x>bold</b>\n\n<script>alert(1)</script>\n\n![a cat](http://elsewhere/cat.png)\n\n[x](javascript:alert(1)) [y](JavaScript:z)\n\n- [ ] open";
        let html = html(text);
        for part in ["<script", "<b ", "<img", "javascript", "<input", "href"] {
            assert!(!html.to_lowercase().contains(part), "{part} is in {html}");
        }
        for part in ["&lt;script&gt;", "a cat", "☐ open", "x y"] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
    }
}

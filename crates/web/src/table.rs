//! A table. On a narrow screen each of its rows becomes a card with the title of its column beside each value, so that nothing is cut off or
//! scrolled sideways.

use std::fmt::Write as _;

use crate::html::escape;

/// Rows under titles; the first column names the rows.
pub(crate) struct Table {
    /// Of each column but the first, its title and the class of its cells: `number`, `bar` or none.
    columns: Vec<(String, &'static str)>,
    html: String,
}

impl Table {
    /// Nothing yet, under the titles of the names and of the other columns.
    pub(crate) fn new<'a>(
        names: &str,
        columns: impl IntoIterator<Item = (&'a str, &'static str)>,
    ) -> Self {
        let columns = columns.into_iter();
        let columns: Vec<_> = columns
            .map(|(title, class)| (escape(title), class))
            .collect();
        let mut html = format!(
            "<div class=\"scroll\" tabindex=\"0\">\n<table class=\"cards-when-narrow\">\n<thead><tr><th scope=\"col\">{}</th>",
            escape(names)
        );
        // Writing to a String cannot fail, so the results here and below carry nothing.
        for (title, class) in &columns {
            let class = match *class {
                "number" => " class=\"number\"",
                _ => "",
            };
            let _ = write!(html, "<th scope=\"col\"{class}>{title}</th>");
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        Self { columns, html }
    }

    /// Adds a row; its name and its cells are HTML, a cell that is none is not known.
    pub(crate) fn row(&mut self, name: &str, cells: impl IntoIterator<Item = Option<String>>) {
        let _ = write!(self.html, "<tr><th scope=\"row\">{name}</th>");
        for ((title, class), cell) in self.columns.iter().zip(cells) {
            let class = match (cell.is_some(), *class) {
                (true, "") => String::new(),
                (true, class) => format!(" class=\"{class}\""),
                (false, "") => " class=\"soft\"".to_owned(),
                (false, class) => format!(" class=\"{class} soft\""),
            };
            let cell = cell.as_deref().unwrap_or("–");
            let _ = write!(self.html, "<td{class} data-title=\"{title}\">{cell}</td>");
        }
        self.html.push_str("</tr>\n");
    }

    /// The whole table.
    pub(crate) fn html(self) -> String {
        self.html + "</tbody>\n</table>\n</div>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_knows_the_title_of_its_column_and_what_is_unknown_is_a_dash() {
        let mut table = Table::new("Model", [("<KL>", "number"), ("Wins", "bar"), ("Data", "")]);
        table.row("a", [Some("1".to_owned()), None, Some("b".to_owned())]);
        table.row("c", [None, None, None]);
        let html = table.html();
        assert!(html.contains(
            "<th scope=\"col\" class=\"number\">&lt;KL&gt;</th><th scope=\"col\">Wins</th>"
        ));
        assert!(html.contains(
            "<tr><th scope=\"row\">a</th><td class=\"number\" data-title=\"&lt;KL&gt;\">1</td><td class=\"bar soft\" data-title=\"Wins\">–</td>\
             <td data-title=\"Data\">b</td></tr>"
        ));
        assert!(html.contains("<td class=\"number soft\" data-title=\"&lt;KL&gt;\">–</td>"));
    }
}

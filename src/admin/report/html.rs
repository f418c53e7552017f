//! A report as one self-contained HTML file: no scripts, nothing that is fetched, light and dark, readable on a phone.

use super::document::{Block, Table};
use crate::admin::chart::escape;
use crate::admin::figures::figures;
use crate::admin::view::review::{Point, PointArm, Review};
use std::fmt::Write;

/// The document with its charts as HTML.
pub fn html(review: &Review, document: &[Block]) -> String {
    let title = format!("{}: report", review.rollout);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<main>\n",
        escape(&title)
    );
    for block in document {
        let _ = match block {
            Block::Heading(level, text) => writeln!(out, "<h{level}>{}</h{level}>", escape(text)),
            Block::Text(text) => writeln!(out, "<p>{}</p>", escape(text)),
            Block::List(items) => {
                let items: Vec<String> = items.iter().map(|item| format!("<li>{}</li>", escape(item))).collect();
                writeln!(out, "<ul>\n{}\n</ul>", items.join("\n"))
            }
            Block::Table(table) => writeln!(out, "{}", table_html(table)),
            Block::Charts => writeln!(out, "{}", charts(review)),
        };
    }
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn table_html(table: &Table) -> String {
    let class = if table.numbers { " class=\"numbers\"" } else { "" };
    let heads: Vec<String> =
        table.heads.iter().map(|head| format!("<th scope=\"col\">{}</th>", escape(head))).collect();
    let mut out = format!(
        "<div class=\"wide\" role=\"region\" aria-label=\"{0}\" tabindex=\"0\"><table{class}><caption>{0}</caption>\n\
         <thead><tr>{1}</tr></thead>\n<tbody>\n",
        escape(&table.name),
        heads.concat()
    );
    for row in &table.rows {
        out.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let tone = match cell.as_str() {
                "fail" | "firing" | "rollback" | "trip" | "escalate" | "kill" => " class=\"bad\"",
                "wait" | "pending" | "alert" | "pause" => " class=\"warn\"",
                "pass" | "complete" | "recover" => " class=\"good\"",
                // A time or a number is never broken, a sentence is.
                short if short.chars().count() <= SHORT => " class=\"short\"",
                _ => "",
            };
            let _ = match column {
                0 => write!(out, "<th scope=\"row\"{tone}>{}</th>", escape(cell)),
                _ => write!(out, "<td{tone}>{}</td>", escape(cell)),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>");
    out
}

/// The charts, and their numbers as a table for those who cannot see them.
fn charts(review: &Review) -> String {
    let figures = figures(&review.points, review.point_s, &review.events);
    if figures.is_empty() {
        return String::new();
    }
    let mut out = String::from("<h2>Course</h2>\n<div class=\"charts\">\n");
    figures.iter().for_each(|chart| out.push_str(&chart.html()));
    out.push_str("</div>\n");
    if figures.iter().any(|chart| !chart.marks.is_empty()) {
        out.push_str("<p class=\"key\">Marks: <b class=\"stage\">stage</b> <b class=\"trip\">trip or kill</b> <b class=\"rollback\">rollback</b></p>\n");
    }
    out.push_str("<details><summary>The numbers of the charts as a table</summary>\n");
    out.push_str(&table_html(&numbers(review)));
    out.push_str("</details>\n");
    out
}

fn numbers(review: &Review) -> Table {
    use super::text;
    let heads = ["time (UTC)", "weight", "arm", "requests", "rps", "error rate", "p50", "p95", "p99"];
    let row = |point: &Point, name: &str, arm: &PointArm| {
        let rate = (arm.requests > 0).then(|| arm.errors as f64 / arm.requests as f64);
        let mut row = vec![text::time(&point.at), text::weight(point.weight_ppm.into()), name.to_owned()];
        row.extend([text::count(arm.requests), format!("{:.1}", arm.rps), text::rate(rate)]);
        row.extend([arm.p50_ms, arm.p95_ms, arm.p99_ms].map(text::ms));
        row
    };
    let rows = review.points.iter().flat_map(|it| [row(it, "stable", &it.stable), row(it, "canary", &it.canary)]);
    Table {
        name: "Numbers of the charts".to_owned(),
        heads: heads.map(str::to_owned).into(),
        rows: rows.collect(),
        numbers: true,
    }
}

/// Characters of a cell that stay on one line: a time of the calendar has 19.
const SHORT: usize = 19;

const CSS: &str = "\
:root{--ground:#fff;--ink:#1b1f24;--dim:#5b6470;--rule:#d9dee4;--stable:#2f6fb0;--canary:#c2620c;--good:#1a7f37;--warn:#8a6100;--bad:#b3261e;--head:#f3f5f7}
@media (prefers-color-scheme:dark){:root{--ground:#15181c;--ink:#e4e8ec;--dim:#9aa5b1;--rule:#343b43;--stable:#7ab3ea;--canary:#f0a35e;--good:#5fc27a;--warn:#e0b44c;--bad:#ff8a80;--head:#1e2329}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:76rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;margin:0 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.2rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.5rem 0;overflow-wrap:anywhere}
ul{margin:.4rem 0;padding-left:1.2rem}
li{overflow-wrap:anywhere}
.wide{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.86rem;min-width:24rem}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{text-align:left;padding:.32rem .7rem;border-bottom:1px solid var(--rule);vertical-align:top}
table:not(.numbers) td:last-child:not(.short){min-width:16rem}
.short{white-space:nowrap}
thead th{background:var(--head);color:var(--dim);font-weight:600;white-space:nowrap}
tbody th{font-weight:500;white-space:nowrap}
.numbers td,.numbers thead th+th{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.good{color:var(--good);font-weight:600}.warn{color:var(--warn);font-weight:600}.bad{color:var(--bad);font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.4rem 2rem}
.chart{margin:0;min-width:0}
figcaption{font-weight:600;font-size:.95rem;display:flex;flex-wrap:wrap;gap:.2rem 1rem;justify-content:space-between}
.legend{font-weight:400;font-size:.85rem;display:flex;gap:.9rem;color:var(--dim)}
.legend svg{margin-right:.3rem;vertical-align:middle}
.plot{position:relative;height:10.5rem;margin:.9rem .5rem 1.7rem 3.7rem;font-size:.75rem;line-height:1;color:var(--dim)}
.plot>svg{width:100%;height:100%;display:block;overflow:visible}
.plot path{vector-effect:non-scaling-stroke}
.y,.x{position:absolute;white-space:nowrap;font-variant-numeric:tabular-nums}
.y{right:100%;margin-right:.5rem;transform:translateY(50%)}
.x{top:100%;margin-top:.5rem;transform:translateX(-50%)}
.x.start{transform:none}.x.end{transform:translateX(-100%)}
.grid{stroke:var(--rule);fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.line.stable{stroke:var(--stable)}.line.canary{stroke:var(--canary);stroke-dasharray:7 4}.line.weight{stroke:var(--ink)}
.mark path{stroke-width:1.5;stroke-dasharray:2 3;fill:none}
.mark .dot{stroke-width:8;stroke-dasharray:none;stroke-linecap:round}
.mark.stage{stroke:var(--dim)}.mark.trip{stroke:var(--warn)}.mark.rollback{stroke:var(--bad)}
.m{position:absolute;bottom:100%;margin-bottom:.2rem;font-size:.7rem;white-space:nowrap}.m.after{transform:translateX(.25rem)}.m.before{transform:translate(calc(-100% - .25rem))}
.m.trip{color:var(--warn)}.m.rollback{color:var(--bad)}
.key{font-size:.85rem;color:var(--dim)}
.key b{font-weight:600;margin-right:.7rem}.key b::before{content:'\\25CF  '}
.key .trip{color:var(--warn)}.key .rollback{color:var(--bad)}
summary{cursor:pointer;color:var(--dim);margin:.8rem 0}
@media (max-width:40rem){body{font-size:15px}main{padding:1rem .8rem 3rem}th,td{padding:.3rem .4rem}.numbers{font-size:.8rem;min-width:0}.numbers tbody th{white-space:normal}.plot{height:9rem;margin-left:3.4rem}}
@media (max-width:30rem){.x.between{display:none}}
@media print{.wide{overflow:visible}details{display:none}}
";

#[cfg(test)]
mod tests {
    use super::super::document::document;
    use super::*;
    use crate::admin::view::review::{ArmSum, Compared};

    fn review(rollout: &str) -> Review {
        let at = |minute: u64, errors: u64| Point {
            at: format!("2026-03-01T12:{minute:02}:00.000Z"),
            span_s: 60.0,
            weight_ppm: 100_000,
            stable: PointArm { requests: 90, rps: 1.5, p50_ms: Some(4.0), ..PointArm::default() },
            canary: PointArm { requests: 10, errors, rps: 0.2, p50_ms: Some(5.0), ..PointArm::default() },
        };
        let arm = |requests| ArmSum { requests, ..ArmSum::default() };
        Review {
            rollout: rollout.to_owned(),
            since: "2026-03-01T12:00:00.000Z".to_owned(),
            point_s: 60.0,
            arms: Compared { stable: arm(270), canary: arm(30), ..Compared::default() },
            points: vec![at(1, 0), at(2, 1), at(3, 0)],
            ..Review::default()
        }
    }

    #[test]
    fn nothing_from_a_config_becomes_markup_and_nothing_is_fetched() {
        let mut review = review("<script>alert(1)</script>");
        review.state_reason = Some("\"><img src=x onerror=alert(1)>".to_owned());
        let page = html(&review, &document(&review));
        for forbidden in ["<script", "<img", "http:", "https:", "@import", "url("] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert!(page.contains("&lt;script&gt;") && page.contains("prefers-color-scheme:dark"));
        assert_eq!(page.matches("role=\"img\"").count(), page.matches("<desc ").count());
        assert_eq!(
            page.matches("<figure").count(),
            5,
            "error rate, p50, requests, in flight, weight: nothing is known of the others"
        );
    }

    #[test]
    fn without_requests_it_says_so_and_draws_nothing() {
        let review = Review { rollout: "chat".to_owned(), ..Review::default() };
        let page = html(&review, &document(&review));
        assert!(page.contains("No requests were counted") && !page.contains("<svg"));
    }
}

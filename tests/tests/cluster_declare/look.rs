//! What a user sees: `kubectl get`, `describe` and `explain`.

use serde_json::json;
use tests::bed::{self, Tool};
use tests::cluster::small;
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::scenario::{NOTICED, in_namespace, scenario, until};

/// A table that kubectl prints: its header and the rows, by white space.
fn table(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn get_reads_well() -> Outcome {
    scenario("get", 1, async |s, _| {
        s.declare("demo", small(3)).await?;
        s.settled("demo").await?;
        s.set_keys(500, &s.addresses("demo", 3)).await?;
        until("the items to be counted", NOTICED, || async {
            let text = s.kubectl(&["get", "ccl"]).await?;
            let rows = table(&text);
            ensure!(rows[0] == ["NAME", "READY", "STATUS", "MEMORY", "ITEMS", "AGE"], "the header is {:?}", rows[0]);
            ensure!(rows[1][..5] == ["demo", "3/3", "Serving", "48Mi", "500"], "the row is {:?}", rows[1]);
            Ok(())
        })
        .await?;
        let wide = s.kubectl(&["get", "ccl", "demo", "--output", "wide"]).await?;
        let endpoint = format!("demo.{}.svc:11211", s.namespace);
        assert!(wide.contains(&endpoint) && wide.contains("cache-node:"), "{wide}");

        // kubectl's own waiting works on the conditions.
        s.kubectl(&["wait", "--for=condition=Ready", "ccl/demo", "--timeout=10s"]).await?;
        s.change("demo", json!({"cache": {"eviction": "Fifo"}})).await?;
        s.condition("demo", "Reconciling", "True", "").await?;
        s.kubectl(&["wait", "--for=condition=Reconciling=false", "ccl/demo", "--timeout=300s"]).await?;
        s.settled("demo").await?;
        Ok(())
    })
}

#[test]
fn describe_tells_the_story_in_events() -> Outcome {
    scenario("describe", 1, async |s, _| {
        s.declare("demo", small(2)).await?;
        s.settled("demo").await?;
        s.kubectl(&["scale", "ccl", "demo", "--replicas", "3"]).await?;
        s.settled("demo").await?;
        s.change("demo", json!({"cache": {"eviction": "Fifo"}})).await?;
        s.condition("demo", "Reconciling", "True", "").await?;
        s.settled("demo").await?;
        s.change("demo", json!({"node": {"memory": "34Mi", "maxConnections": 5000}})).await?;
        s.condition("demo", "Ready", "False", "InvalidSpec").await?;
        until("the story to be told", NOTICED, || async {
            let text = s.kubectl(&["describe", "ccl", "demo"]).await?;
            let story = text.split_once("Events:").map(|(_, events)| events).unwrap_or_default();
            for word in ["from 2 to 3", "InvalidSpec", "demo-0", "Warning", "Normal"] {
                ensure!(story.contains(word), "no {word} in the events:\n{story}");
            }
            Ok(())
        })
        .await
    })
}

/// One field of `kubectl explain`'s list: its name and the text below it.
fn fields(explained: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    let listed = explained.split_once("FIELDS:\n").map(|(_, list)| list).unwrap_or_default();
    for line in listed.lines() {
        match line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ') && rest.contains('\t')) {
            Some(field) => fields.push((field.split('\t').next().unwrap_or_default().to_owned(), String::new())),
            None => {
                if let Some((_, text)) = fields.last_mut() {
                    text.push_str(line.trim());
                }
            }
        }
    }
    fields
}

#[test]
fn explain_has_a_sentence_for_every_field() -> Outcome {
    in_namespace("explain", async |_| {
        let ours = [
            "ccl.spec",
            "ccl.spec.disruption",
            "ccl.spec.node",
            "ccl.spec.cache",
            "ccl.spec.rollout",
            "ccl.spec.podTemplate",
            "ccl.status",
            "ccl.status.pods",
        ];
        for path in ours {
            let text = bed::run(Tool::Kubectl, &["explain", path]).await?;
            let fields = fields(&text);
            ensure!(!fields.is_empty(), "{path} has no fields:\n{text}");
            for (name, words) in fields {
                let is_sentence = words.split_whitespace().count() >= 3 && !words.contains("<no description>");
                ensure!(is_sentence, "{path}.{name} is explained by {words:?}");
            }
        }
        Ok::<(), Failure>(())
    })
}

//! One plain HTTP request: pods' health, metrics and status.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::{Failure, Outcome};

const REQUEST_SECONDS: u64 = 5;
const LONGEST_ANSWER: u64 = 16 << 20;

/// The body of `http://ADDRESS:PORT/PATH`.
///
/// # Errors
/// Where nobody answers within 5 s, or with another status than 200.
pub async fn get(address: &str, port: u16, path: &str) -> Outcome<String> {
    let request = async {
        let mut stream = TcpStream::connect((address, port)).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
        Ok::<_, Failure>(String::from_utf8_lossy(&answer).into_owned())
    };
    let url = format!("http://{address}:{port}{path}");
    let answer = timeout(Duration::from_secs(REQUEST_SECONDS), request)
        .await
        .map_err(|_| Failure::new(format!("{url} does not answer within {REQUEST_SECONDS} s")))?
        .map_err(|failure| failure.while_doing(&url))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(Failure::new(format!("{url} answers {}: {body}", head.lines().next().unwrap_or_default())));
    }
    Ok(body.to_owned())
}

/// The value of a metric without labels, in Prometheus' text form.
///
/// # Errors
/// Where the metric is not there.
pub fn metric(text: &str, name: &str) -> Outcome<f64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = lines.next().ok_or_else(|| Failure::new(format!("there is no metric {name} in:\n{text}")))?;
    Ok(value.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::metric;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP a b\na_total 3\na 1\n";
        assert!((metric(text, "a").unwrap() - 1.0).abs() < f64::EPSILON);
        assert!(metric(text, "b").is_err());
    }
}

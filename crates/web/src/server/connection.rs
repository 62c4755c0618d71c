//! Connections: how many, how long, how much.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rlhf_base::Interrupt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use super::Refusal;

/// The largest request.
pub(super) const BODY_LIMIT: usize = 1 << 20;

/// A request must be there after this time, its head and then its body; a connection may idle as long between two.
const REQUEST_TIME: Duration = Duration::from_secs(20);

/// A client that takes nothing of an answer for this long is gone.
const UNREAD_TIME: Duration = Duration::from_secs(30);

/// Connections at once; more wait in the queue of the operating system.
const CONNECTIONS: usize = 512;

/// Open answers have this long to end after an interrupt.
const GRACE: Duration = Duration::from_secs(1);

/// Serves connections until an interrupt.
pub(super) async fn accept(
    listener: TcpListener,
    router: Router,
    interrupt: &Interrupt,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut open = JoinSet::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME);
    let interrupted = async {
        while !interrupt.requested() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let serving = async {
        loop {
            // The semaphore is never closed, so this is always a permit.
            let permit = room.clone().acquire_owned().await;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // The client has gone, or there are no file descriptors: others will close theirs.
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let service = TowerToHyperService::new(router.clone());
            let connection = http.serve_connection(TokioIo::new(patient(stream)), service);
            let connection = graceful.watch(connection);
            open.spawn(async move {
                // What a connection ends with concerns its client alone.
                let _ = connection.await;
                drop(permit);
            });
            while open.try_join_next().is_some() {}
        }
    };
    first(interrupted, serving).await;
    let _ = timeout(GRACE, graceful.shutdown()).await;
    open.shutdown().await;
    Ok(())
}

/// Runs both until `ends` is done.
async fn first(ends: impl Future<Output = ()>, runs: impl Future<Output = ()>) {
    let (mut ends, mut runs) = (std::pin::pin!(ends), std::pin::pin!(runs));
    std::future::poll_fn(|context| {
        let _ = runs.as_mut().poll(context);
        ends.as_mut().poll(context)
    })
    .await;
}

fn patient(stream: TcpStream) -> std::pin::Pin<Box<TimeoutStream<TcpStream>>> {
    // Tokens are small and each should go out at once.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(UNREAD_TIME));
    Box::pin(stream)
}

/// Reads the body before a handler sees the request: at most [`BODY_LIMIT`], within [`REQUEST_TIME`].
pub(super) async fn whole_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let too_large = || {
        let message = format!("a request may have {BODY_LIMIT} bytes, and this one has more");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    };
    let declared = parts.headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > BODY_LIMIT as u64) {
        return too_large().for_reader(&parts.headers);
    }
    match timeout(REQUEST_TIME, to_bytes(body, BODY_LIMIT)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Ok(Err(_)) => too_large().for_reader(&parts.headers),
        Err(_) => Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            "the request did not arrive in time",
        )
        .for_reader(&parts.headers),
    }
}

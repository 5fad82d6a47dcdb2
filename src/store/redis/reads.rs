//! The request path's reads: those of many requests in one round trip.
//!
//! Requests of one server are gathered ([`super::gather`]) and sent as pipelines on a pooled connection, with one
//! check-out, one timer and one message to the connection's task for all of them. A pipeline is answered as a whole, so
//! it is not longer than `TOGETHER`: a large value delays few others. In a cluster each read goes by itself, so that a
//! node that does not answer delays nobody who asks another.
//!
//! A read that finds no other under way has nobody to share with and goes at once, in the request's own task: standing back
//! would cost it a turn of the scheduler.
//!
//! What an outcome says about Redis is counted for each read, as if it had been made alone: three requests that got no
//! answer open the breaker, whether they shared a round trip or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::oneshot;

use super::gather::Gather;
use super::link::{Failure, Link, pipe};

/// Most reads in one pipeline.
const TOGETHER: usize = 64;

/// A read, and who waits for it.
#[derive(Debug)]
struct Question {
    command: Cmd,
    answer: oneshot::Sender<Result<Value, Failure>>,
}

/// See the module.
#[derive(Debug)]
pub struct Reads {
    link: Arc<Link>,
    waiting: Gather<Question>,
    under_way: AtomicUsize,
}

/// A request that waits for its reads, until this is dropped.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reads {
    /// Over a link.
    pub fn new(link: &Arc<Link>) -> Arc<Reads> {
        let places = available_parallelism().map_or(1, usize::from);
        Arc::new(Reads {
            link: Arc::clone(link),
            waiting: Gather::new(places),
            under_way: AtomicUsize::new(0),
        })
    }

    /// One read within the operation's deadline. It may be repeated and it may be dropped.
    pub async fn one(self: &Arc<Reads>, command: Cmd) -> Result<Value, Failure> {
        let alone = self.under_way.fetch_add(1, Ordering::Relaxed) == 0;
        let _under_way = UnderWay(&self.under_way);
        if alone || self.link.is_cluster() {
            // In a box, so that the many that do not come here have no room for it.
            return Box::pin(self.link.command(&command)).await;
        }
        let (answer, answered) = oneshot::channel();
        self.ask([Question { command, answer }])?;
        // Nobody is left to answer where the runtime is about to end.
        answered.await.unwrap_or(Err(Failure::Late))
    }

    /// Several reads at once, each with a result of its own, unless one says more than that it was refused.
    pub async fn several(self: &Arc<Reads>, commands: Vec<Cmd>) -> Result<Vec<RedisResult<Value>>, Failure> {
        if self.link.is_cluster() {
            let mut pipeline = pipe();
            for command in commands {
                pipeline.add_command(command);
            }
            return self.link.pipeline(&pipeline).await;
        }
        let (questions, answers): (Vec<_>, Vec<_>) = commands
            .into_iter()
            .map(|command| {
                let (answer, answered) = oneshot::channel();
                (Question { command, answer }, answered)
            })
            .unzip();
        self.ask(questions)?;
        let mut results = Vec::with_capacity(answers.len());
        for answered in answers {
            results.push(match answered.await.unwrap_or(Err(Failure::Late)) {
                Ok(value) => Ok(value),
                Err(Failure::Failed(error)) if Failure::Failed(error.clone()).spares_the_connection() => {
                    Err(error)
                }
                Err(failure) => return Err(failure),
            });
        }
        Ok(results)
    }

    /// Has questions answered, unless the breaker is open.
    fn ask(self: &Arc<Reads>, questions: impl IntoIterator<Item = Question>) -> Result<(), Failure> {
        if !self.link.is_closed() {
            return Err(Failure::Skipped);
        }
        if let Some(taker) = self.waiting.add(questions) {
            let reads = Arc::clone(self);
            tokio::spawn(async move { reads.answer_all(taker.gathered().await).await });
        }
        Ok(())
    }

    async fn answer_all(&self, mut questions: Vec<Question>) {
        // Whoever has gone away meanwhile is asked nothing for.
        questions.retain(|question| !question.answer.is_closed());
        let mut parts = Vec::new();
        while questions.len() > TOGETHER {
            parts.push(self.answer(questions.split_off(questions.len() - TOGETHER)));
        }
        if parts.is_empty() {
            return self.answer(questions).await;
        }
        parts.push(self.answer(questions));
        join_all(parts).await;
    }

    /// In one round trip.
    async fn answer(&self, questions: Vec<Question>) {
        if questions.is_empty() {
            return;
        }
        let mut pipeline = Pipeline::with_capacity(questions.len());
        let mut answers = Vec::with_capacity(questions.len());
        for Question { command, answer } in questions {
            pipeline.add_command(command);
            answers.push(answer);
        }
        match self.link.together(&pipeline).await {
            Ok(results) => {
                for (answer, result) in answers.into_iter().zip(results) {
                    let _ = answer.send(result.map_err(Failure::Failed));
                }
            }
            Err(failure) => {
                for answer in answers {
                    let _ = answer.send(Err(failure.clone()));
                }
            }
        }
    }
}

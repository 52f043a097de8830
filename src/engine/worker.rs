// SPDX-License-Identifier: MPL-2.0
//! One thread owns one model. Everybody else holds a handle, sends jobs, and may cancel them.
//!
//! That makes one mechanism of four needs: models and tensors never move between threads, elements share a model, a
//! panic of a tensor operation ends as an [`Error`], and a cancelled job ends at its next look at the token.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, Once};
use std::thread;
use std::time::Duration;

use super::weights::LoadProgress;
use super::{Error, Result, threads};

/// A token that ends a job early. Clones are the same token.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the job to end. Returns at once.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
        if *BUSY.lock().unwrap() > 0 {
            finish_before_exit();
        }
    }

    /// Whether the job is to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) || EXITING.load(Ordering::Relaxed)
    }

    /// [`Error::Cancelled`] if the job is to end.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

type Job<M> = Box<dyn FnOnce(&mut Result<M>) + Send>;

/// A model's load: the token that ends it, and how far it is. Clones are of the same load.
#[derive(Debug, Clone, Default)]
pub struct Loading {
    /// Set when nobody wants the model any more.
    pub cancel: Cancel,
    /// How much of the model has been loaded.
    pub progress: LoadProgress,
    is_loaded: Arc<AtomicBool>,
    has_failed: Arc<AtomicBool>,
}

impl Loading {
    /// Whether the model is there: a job that has not begun waits for others.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Relaxed)
    }
}

/// A handle to the thread that owns a model. The thread ends, and frees the model, when the last clone of the handle is
/// dropped and the job that began before has ended: until then, whoever wants the model can still have it.
pub struct Worker<M> {
    jobs: mpsc::Sender<Job<M>>,
    loading: Loading,
}

impl<M: 'static> Worker<M> {
    /// Starts a thread called `name` that loads a model and then waits for jobs. Returns at once; jobs can be sent
    /// right away. A model that fails to load answers every job with that error. `load` gets a token that is set when
    /// the handle is dropped.
    pub fn spawn(name: &str, load: impl FnOnce(&Loading) -> Result<M> + Send + 'static) -> Arc<Self> {
        let (jobs, queue) = mpsc::channel::<Job<M>>();
        let loading = Loading::default();
        let told = loading.clone();
        finish_before_exit();
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let mut model = {
                    let _busy = Busy::new();
                    guarded(|| load(&told))
                };
                told.has_failed.store(model.is_err(), Ordering::Relaxed);
                told.is_loaded.store(model.is_ok(), Ordering::Relaxed);
                finish_before_exit();
                for (done, job) in (1usize..).zip(queue) {
                    let _busy = Busy::new();
                    job(&mut model);
                    if done.is_power_of_two() {
                        finish_before_exit();
                    }
                }
                let _busy = Busy::new();
                drop(model);
            })
            .expect("the system gives no more threads");
        Arc::new(Self { jobs, loading })
    }

    /// Sends a job to the model's thread. Jobs run one after the other, in the order in which they were sent.
    pub fn submit<R: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&mut M) -> Result<R> + Send + 'static,
    ) -> Reply<R> {
        let (answer, reply) = mpsc::sync_channel(1);
        let handle = Arc::downgrade(self);
        let job: Job<M> = Box::new(move |model| {
            let handle = handle.upgrade();
            let result = match model {
                Ok(model) => guarded(|| job(model)),
                Err(err) => Err(err.clone()),
            };
            drop(handle);
            // Nobody waiting is fine.
            let _ = answer.send(result);
        });
        // The thread lives as long as this handle.
        self.jobs.send(job).expect("a worker outlives its handle");
        Reply(reply)
    }

    /// The model's load.
    pub fn loading(&self) -> &Loading {
        &self.loading
    }

    /// Whether the model could not be loaded. `false` as long as it may yet be.
    pub fn has_failed(&self) -> bool {
        self.loading.has_failed.load(Ordering::Relaxed)
    }
}

/// Runs work that needs no model on a thread of its own. Returns at once.
pub fn spawn<R: Send + 'static>(name: &str, work: impl FnOnce() -> Result<R> + Send + 'static) -> Reply<R> {
    let (answer, reply) = mpsc::sync_channel(1);
    let run = move || {
        // Nobody waiting is fine.
        let _ = answer.send(work());
    };
    thread::Builder::new().name(name.into()).spawn(run).expect("the system gives no more threads");
    Reply(reply)
}

impl<M> Drop for Worker<M> {
    fn drop(&mut self) {
        self.loading.cancel.cancel();
    }
}

/// The answer to a job, some day.
pub struct Reply<R>(mpsc::Receiver<Result<R>>);

impl<R> Reply<R> {
    /// Waits for the job to end.
    pub fn wait(self) -> Result<R> {
        self.0.recv().unwrap_or(Err(Error::Cancelled))
    }

    /// Waits for the job to end, but not longer than this.
    pub fn wait_for(&self, time: Duration) -> Option<Result<R>> {
        match self.0.recv_timeout(time) {
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            answer => Some(answer.unwrap_or(Err(Error::Cancelled))),
        }
    }

    /// Waits for the job to end, or for the token to be set: then the job may go on for a while, and nobody hears of it.
    pub fn wait_or(self, cancel: &Cancel) -> Result<R> {
        // A look at the token now and then, because a token that could wake somebody would need a lock.
        const LOOK: Duration = Duration::from_millis(10);
        loop {
            if let Some(answer) = self.wait_for(LOOK) {
                return answer;
            }
            cancel.check()?;
        }
    }
}

/// Runs tensor code: without gradients, and with a panic (how `tch` reports a failed operation) turned into an error.
/// May be used within itself.
pub(super) fn guarded<R>(work: impl FnOnce() -> Result<R>) -> Result<R> {
    quiet_panics();
    threads::yield_soon();
    let is_within = GUARDED.replace(true);
    // What a panic leaves half done is dropped with the closure, and models hold no state between jobs.
    let result = catch_unwind(AssertUnwindSafe(|| tch::no_grad(work)));
    GUARDED.set(is_within);
    result.unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        // What tch unwraps: its error in {:?}, with escaped quotes and line breaks.
        let message = message.split_once("value: Torch(\"").map_or(message, |(_, said)| said.trim_end_matches("\")"));
        Err(Error::torch(&message.replace("\\n", "\n").replace("\\\"", "\"")))
    })
}

thread_local! {
    /// Whether this thread's panics become errors.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics that become errors out of the program's standard error.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
}

/// Set when the process is about to end: every job is then cancelled.
static EXITING: AtomicBool = AtomicBool::new(false);
static BUSY: Mutex<usize> = Mutex::new(0);
static IDLE: Condvar = Condvar::new();

/// Counts the threads that are inside libtorch.
struct Busy;

impl Busy {
    fn new() -> Self {
        *BUSY.lock().unwrap() += 1;
        Self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *BUSY.lock().unwrap() -= 1;
        IDLE.notify_all();
    }
}

/// Stopping an element does not wait for the step in progress, so a process can end while one runs; libtorch's
/// libraries must not be torn down under it. Exit handlers run last come, first served, and these libraries register
/// theirs when a part of them is first used, so this one is registered again and again: after jobs, ever more rarely,
/// and when work is told to end.
fn finish_before_exit() {
    extern "C" fn wait() {
        EXITING.store(true, Ordering::Relaxed);
        const PATIENCE: Duration = Duration::from_secs(60);
        let busy = BUSY.lock().unwrap();
        if IDLE.wait_timeout_while(busy, PATIENCE, |busy| *busy > 0).is_ok_and(|(_, wait)| wait.timed_out()) {
            eprintln!("torchvideo: a computation has not ended within {} s of the program's end", PATIENCE.as_secs());
        }
    }
    // SAFETY: registers a function that stays loaded: GStreamer never unloads a plugin.
    unsafe { libc::atexit(wait) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn jobs_run_in_order_on_one_thread() {
        let worker = Worker::spawn("test", |_| Ok(vec![thread::current().id()]));
        let replies: Vec<_> = (0..5)
            .map(|i| {
                worker.submit(move |seen| {
                    seen.push(thread::current().id());
                    Ok((i, seen.len(), seen.iter().all(|id| *id == seen[0])))
                })
            })
            .collect();
        for (i, reply) in replies.into_iter().enumerate() {
            assert_eq!(reply.wait().unwrap(), (i, i + 2, true));
        }
    }

    #[test]
    fn a_failed_operation_is_an_error_and_the_worker_lives() {
        let worker = Worker::spawn("test", |_| Ok(()));
        let err = worker.submit(|()| {
            let a = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
            Ok(a.matmul(&a).size())
        });
        let message = err.wait().unwrap_err().to_string();
        assert!(message.starts_with("libtorch: mat1") && message.contains("2x3"), "{message}");
        assert!(!message.contains('\n'));
        assert_eq!(worker.submit(|()| Ok(1)).wait().unwrap(), 1);
    }

    #[test]
    fn a_model_that_fails_to_load_tells_everyone() {
        let worker = Worker::<()>::spawn("test", |_| Err(Error::model("x", "is not there")));
        for _ in 0..2 {
            assert_eq!(worker.submit(|()| Ok(())).wait().unwrap_err().to_string(), "x: is not there");
        }
    }

    #[test]
    fn nobody_waits_for_a_cancelled_job() {
        let worker = Worker::spawn("test", |_| Ok(()));
        let (go, gone) = mpsc::channel::<()>();
        let cancel = Cancel::default();
        let reply = worker.submit(move |()| {
            gone.recv().unwrap();
            Ok(())
        });
        cancel.cancel();
        assert!(matches!(reply.wait_or(&cancel), Err(Error::Cancelled)));
        go.send(()).unwrap();
        assert_eq!(worker.submit(|()| Ok(2)).wait_or(&Cancel::default()).unwrap(), 2);
    }

    #[test]
    fn a_dropped_handle_cancels_the_load() {
        let (say, hear) = mpsc::channel();
        let worker = Worker::<()>::spawn("test", move |loading| {
            while !loading.cancel.is_cancelled() {
                thread::yield_now();
            }
            say.send(()).unwrap();
            loading.cancel.check()
        });
        let reply = worker.submit(|()| Ok(()));
        drop(worker);
        hear.recv().unwrap();
        assert!(matches!(reply.wait(), Err(Error::Cancelled)));
    }
}

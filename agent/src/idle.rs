//! Work that must not be in the way of any other.

use tokio::sync::oneshot;

/// The lowest priority there is; the disk's scheduler follows the processor's.
const NICE: i32 = 19;

/// Does `work` in a thread of its own of the lowest priority. `None` when there is no thread, or it ended badly.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("idle".to_owned());
    let started = thread.spawn(move || {
        // Of this thread only, as Linux means it. It may always become lower; if not, the work is done all the same.
        let _ = rustix::process::setpriority_process(None, NICE);
        let _ = done.send(work());
    });
    started.ok()?;
    result.await.ok()
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn only_the_thread_of_the_work_is_slowed() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let ours = nice();
        assert_eq!(super::run(nice).await, Some(super::NICE));
        assert_eq!(nice(), ours);
    }
}

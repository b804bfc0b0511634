//! A wire to a server that can be cut.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A wire to a server that can be cut, or held so that nothing comes through.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    cut: watch::Sender<bool>,
    held: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Wire {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = watch::channel(false);
        let (held, is_held) = watch::channel(false);
        let task = tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (mut is_cut, mut is_held) = (is_cut.clone(), is_held.clone());
                tokio::spawn(async move {
                    if *is_cut.borrow() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else {
                        return;
                    };
                    // As both ends do; else each small answer waits for the other side's word.
                    near.set_nodelay(true).unwrap();
                    far.set_nodelay(true).unwrap();
                    let copy = async {
                        loop {
                            tokio::select! {
                                biased;
                                _ = is_held.wait_for(|held| *held) => {}
                                _ = copy_bidirectional(&mut near, &mut far) => return,
                            }
                            let _ = is_held.wait_for(|held| !*held).await;
                        }
                    };
                    // Either end drops both sockets.
                    tokio::select! {
                        () = copy => {}
                        _ = is_cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self {
            address,
            cut,
            held,
            task,
        }
    }

    /// Cuts what is there and whatever is tried.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Nothing comes through any more, and both ends stay connected. Breaks what was under way.
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.cut.send_replace(false);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

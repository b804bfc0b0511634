//! nginx with nchan (Debian: `nginx` and `libnginx-mod-nchan`), one worker.

use std::{env, fs, net::TcpStream, path::PathBuf};

use super::{NotStarted, Places, Running, has};
use crate::load::plan::Dialect;

/// Names the module, where it is not installed in the usual place.
const MODULE_VARIABLE: &str = "NCHAN_MODULE";
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub(super) fn start(places: &Places) -> Result<Running, NotStarted> {
    let module = env::var_os(MODULE_VARIABLE).map_or_else(|| MODULE.into(), PathBuf::from);
    if !has("nginx") || !module.exists() {
        let why = "apt-get install nginx libnginx-mod-nchan";
        return Err(NotStarted::Missing(why.into()));
    }
    let mut running = Running::new()?;
    let listen = running.subscribe_at;
    let directory = running.directory.path().display().to_string();
    let module = module.display();
    let file = running.directory.path().join("nginx.conf");
    let config = format!(
        "load_module {module};\n\
         daemon off; user root; worker_processes 1; worker_rlimit_nofile 19900;\n\
         pid {directory}/pid; error_log stderr warn;\n\
         events {{ worker_connections 19500; multi_accept on; }}\n\
         http {{\n\
           access_log off; tcp_nodelay on; client_body_temp_path {directory}/body;\n\
           keepalive_requests 1000000000; keepalive_timeout 3600s;\n\
           nchan_shared_memory_size 512m;\n\
           server {{\n\
             listen {listen} backlog=4096;\n\
             location ~ ^/sub/(.+)$ {{\n\
               nchan_subscriber eventsource; nchan_channel_id $1;\n\
               nchan_subscriber_first_message newest; nchan_subscriber_timeout 0;\n\
             }}\n\
             location ~ ^/pub/(.+)$ {{\n\
               nchan_publisher; nchan_channel_id $1; nchan_message_buffer_length 1000;\n\
             }}\n\
           }}\n\
         }}\n"
    );
    fs::write(&file, config)?;
    let mut command = places.pinned("nginx");
    command.args(["-p", &directory, "-c"]).arg(&file);
    let master = running.spawn(&mut command)?;
    running.dialect = Dialect::Nchan;
    // The listener is there before the worker is.
    running.wait_for(|server| {
        !children(master).is_empty() && TcpStream::connect(server.subscribe_at).is_ok()
    })?;
    running.pids.push(master);
    running.pids.extend(children(master));
    Ok(running)
}

/// The processes that a process started.
fn children(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

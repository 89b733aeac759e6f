//! A plain file server and a plain client: what moving the bytes costs when nobody proves anything.

use std::fs;
use std::time::Duration;

use anyhow::Result;

use super::{Field, Players, Team};
use crate::network::{Host, Net};
use crate::process::Process;

pub(super) fn start(field: &Field<'_>) -> Result<Players> {
    let root = field.directory.display();
    let settings = field.directory.join("nginx.conf");
    fs::write(
        &settings,
        format!(
            "daemon off; master_process off; user root; pid {root}/nginx.pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {root}/t1;\n\
             proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4;\n\
             scgi_temp_path {root}/t5; server {{ listen 8080; root {}; }} }}\n",
            field.model.directory.display()
        ),
    )?;
    let words = ["nginx", "-c", &settings.display().to_string()];
    let server = Process::start(Host::Node(0), "nginx", field.logs, &words)?;
    std::thread::sleep(Duration::from_millis(500));
    let mut players = Players::new(Team::Nginx);
    players.nodes = vec![Some(server), None];
    players.marks = vec![field.directory.join("none"), field.home(1).join("complete")];
    players.data = vec![field.home(0), field.home(1)];
    Ok(players)
}

pub(super) fn curl(field: &Field<'_>, number: u8) -> Result<Process> {
    let home = field.home(number);
    let mut words = vec!["curl".to_owned(), "-sSf".to_owned()];
    for file in &field.model.files {
        words.push("-o".to_owned());
        words.push(home.join(&file.path).display().to_string());
        words.push(format!(
            "http://{}:8080/{}",
            Host::Node(0).address(Net::Lan),
            file.path
        ));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Process::start(Host::Node(number), "curl", field.logs, &words)
}

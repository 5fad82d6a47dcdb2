//! Each server's files and command line.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use bench_rig::{Outcome, during};

use super::template::fill;
use super::{Launch, Name, Stage, port};
use crate::keys::Keys;

/// Where Debian has nginx's modules.
const MODULES: &str = "/usr/lib/nginx/modules";

/// What is needed to start a server; its files are written to `dir`.
pub fn launch(name: Name, stage: &Stage<'_>, dir: &Path, redis: Option<SocketAddr>) -> Outcome<Launch> {
    let port = port()?;
    let files = Files { stage, dir, port, values: values(stage, dir, port, redis)? };
    match name {
        Name::Bare => bare(&files),
        Name::Weir | Name::WeirRedis | Name::WeirBoth => weir(name, &files),
        Name::Nginx => nginx(&files),
        Name::NginxRedis => nginx_redis(&files),
        Name::Haproxy => haproxy(&files),
        Name::Varnish => varnish(&files),
        Name::Squid => squid(&files),
        Name::TrafficServer => traffic_server(&files),
    }
}

/// What all files may refer to.
fn values(
    stage: &Stage<'_>,
    dir: &Path,
    port: u16,
    redis: Option<SocketAddr>,
) -> Outcome<Vec<(&'static str, String)>> {
    let workload = stage.workload;
    let h2 = workload.protocol.h2();
    Ok(vec![
        ("port", port.to_string()),
        ("admin", super::port()?.to_string()),
        ("origin", stage.origin.port().to_string()),
        ("redis", redis.map_or(0, |address| address.port()).to_string()),
        ("dir", dir.display().to_string()),
        ("workers", stage.workers().to_string()),
        ("mib", workload.cache.to_string()),
        ("maxconn", (workload.connections + 500).to_string()),
        ("mib_double", (workload.cache * 2).to_string()),
        ("certificate", stage.pair.certificate.display().to_string()),
        ("key", stage.pair.key.display().to_string()),
        ("both", stage.pair.both.display().to_string()),
        ("alpn", if h2 { "h2" } else { "http/1.1" }.to_owned()),
    ])
}

struct Files<'a> {
    stage: &'a Stage<'a>,
    dir: &'a Path,
    port: u16,
    values: Vec<(&'static str, String)>,
}

impl Files<'_> {
    /// Fills in a template.
    fn text(&self, template: &str, more: &[(&'static str, String)], also: &[&str]) -> Outcome<String> {
        let mut features = self.stage.workload.features();
        features.extend(also);
        fill(template, &[more, &self.values].concat(), &features)
    }

    /// Fills in a template and writes it.
    fn write(&self, file: &str, template: &str, more: &[(&'static str, String)]) -> Outcome<PathBuf> {
        let text = self.text(template, more, &[])?;
        self.put(file, &text)
    }

    fn put(&self, file: &str, text: &str) -> Outcome<PathBuf> {
        let path = self.dir.join(file);
        std::fs::write(&path, text).map_err(during(file))?;
        Ok(path)
    }

    /// A directory for what is cached.
    fn cache(&self) -> Outcome<PathBuf> {
        let path = self.dir.join("cache");
        std::fs::create_dir_all(&path).map_err(during("a cache directory"))?;
        let_in(&path)?;
        Ok(path)
    }

    fn launch(&self, program: &str, arguments: Vec<String>) -> Launch {
        Launch { program: find(program), arguments, port: self.port, files: None }
    }
}

fn bare(files: &Files<'_>) -> Outcome<Launch> {
    let workload = files.stage.workload;
    let program = std::env::current_exe().map_err(during("this program"))?;
    let mut arguments = vec!["bare".to_owned(), "--port".to_owned(), files.port.to_string()];
    if workload.protocol.h2() {
        arguments.push("--h2".to_owned());
    }
    if workload.size <= 32 * 1024 {
        arguments.push("--copy".to_owned());
    }
    if workload.protocol.tls() {
        let pair = files.stage.pair;
        arguments.extend(["--certificate".to_owned(), pair.certificate.display().to_string()]);
        arguments.extend(["--key".to_owned(), pair.key.display().to_string()]);
    }
    Ok(Launch { program, ..files.launch("", arguments) })
}

fn weir(name: Name, files: &Files<'_>) -> Outcome<Launch> {
    let memory = match name {
        Name::WeirRedis => "0".to_owned(),
        _ => format!("{}MiB", files.stage.workload.cache),
    };
    let also: &[&str] = if name.needs_redis() { &["redis"] } else { &[] };
    let text = files.text(include_str!("../../configs/weir.toml"), &[("memory", memory)], also)?;
    let config = files.put("proxy.toml", &text)?;
    let launch = files.launch("", vec!["-c".to_owned(), config.display().to_string()]);
    Ok(Launch { program: files.stage.weir.to_owned(), ..launch })
}

fn nginx(files: &Files<'_>) -> Outcome<Launch> {
    let workload = files.stage.workload;
    let cache = files.cache()?;
    let more = [
        ("files", cache.display().to_string()),
        // 8,000 keys take a MiB.
        ("zone", (workload.keys.count() / 4_000).max(32).to_string()),
        ("http2", if workload.protocol.h2() { " http2" } else { "" }.to_owned()),
    ];
    let config = files.write("nginx.conf", include_str!("../../configs/nginx.conf"), &more)?;
    Ok(Launch { files: Some(cache), ..files.launch("nginx", nginx_arguments(files.dir, &config)) })
}

fn nginx_redis(files: &Files<'_>) -> Outcome<Launch> {
    // Debian's package has it under a name of its own.
    let debian = Path::new("/usr/share/lua/5.1/nginx/redis.lua").exists();
    let module = if debian { "nginx.redis" } else { "resty.redis" };
    let more = [("modules", MODULES.to_owned()), ("module", module.to_owned())];
    let config = files.write("nginx.conf", include_str!("../../configs/nginx-redis.conf"), &more)?;
    Ok(files.launch("nginx", nginx_arguments(files.dir, &config)))
}

fn nginx_arguments(dir: &Path, config: &Path) -> Vec<String> {
    let (prefix, config) = (dir.display().to_string(), config.display().to_string());
    let log = dir.join("error.log").display().to_string();
    ["-p", &prefix, "-e", &log, "-c", &config].map(str::to_owned).to_vec()
}

fn haproxy(files: &Files<'_>) -> Outcome<Launch> {
    let config = files.write("haproxy.cfg", include_str!("../../configs/haproxy.cfg"), &[])?;
    Ok(files.launch("haproxy", vec!["-db".to_owned(), "-f".to_owned(), config.display().to_string()]))
}

fn varnish(files: &Files<'_>) -> Outcome<Launch> {
    let config = files.write("default.vcl", include_str!("../../configs/varnish.vcl"), &[])?;
    let more = [("config", config.display().to_string())];
    let arguments = files.text(include_str!("../../configs/varnish.args"), &more, &[])?;
    let arguments = arguments.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(files.launch("varnishd", arguments.map(str::to_owned).collect()))
}

fn squid(files: &Files<'_>) -> Outcome<Launch> {
    let config = files.write("squid.conf", include_str!("../../configs/squid.conf"), &[])?;
    let config = config.display().to_string();
    // -n: services with different names do not get into each other's way.
    let service = squid_service(files.port);
    Ok(files.launch("squid", ["-N", "-f", &config, "-n", &service].map(str::to_owned).to_vec()))
}

fn squid_service(port: u16) -> String {
    format!("peers{port}")
}

/// Removes what a Squid that was killed leaves in shared memory under its service's name.
pub fn remove_shared_memory(port: u16) {
    let start = format!("{}-", squid_service(port));
    let Ok(entries) = std::fs::read_dir("/dev/shm") else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(&start) && name.ends_with(".shm")) {
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

fn traffic_server(files: &Files<'_>) -> Outcome<Launch> {
    for dir in ["etc", "run", "log"] {
        let path = files.dir.join(dir);
        std::fs::create_dir_all(&path).map_err(during("a directory"))?;
        let_in(&path)?;
    }
    let workload = files.stage.workload;
    let cache = files.cache()?;
    let own = std::fs::metadata(files.dir).map_or(0, |meta| meta.uid());
    let small = matches!(workload.keys, Keys::Zipf(n) if n > 50_000);
    let more = [
        ("files", cache.display().to_string()),
        // All objects are on its disk, too, each in blocks of 512 bytes with a head of its own.
        ("storage", (workload.cache * 2).max(256).to_string()),
        ("average", if small { "1024" } else { "4096" }.to_owned()),
        // It refuses to be root; the package has a user for it.
        ("user", if own == 0 { "trafficserver".to_owned() } else { format!("#{own}") }),
    ];
    for (file, template) in [
        ("etc/records.config", include_str!("../../configs/traffic-server.records.config")),
        ("etc/remap.config", include_str!("../../configs/traffic-server.remap.config")),
        ("etc/cache.config", include_str!("../../configs/traffic-server.cache.config")),
        ("etc/storage.config", include_str!("../../configs/traffic-server.storage.config")),
        ("etc/ssl_multicert.config", include_str!("../../configs/traffic-server.ssl_multicert.config")),
        ("etc/ip_allow.yaml", include_str!("../../configs/traffic-server.ip_allow.yaml")),
        ("runroot.yaml", include_str!("../../configs/traffic-server.runroot.yaml")),
    ] {
        files.write(file, template, &more)?;
    }
    files.put("resolv.conf", "nameserver 127.0.0.1\n")?;
    let root = format!("--run-root={}", files.dir.join("runroot.yaml").display());
    Ok(Launch { files: Some(cache), ..files.launch("traffic_server", vec![root]) })
}

/// Servers are in directories that are not everybody's PATH.
fn find(program: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
    let mut found = places.iter().map(|place| Path::new(place).join(program)).filter(|path| path.is_file());
    found.next().unwrap_or_else(|| PathBuf::from(program))
}

/// Lets servers that run as users of their own write there.
pub fn let_in(dir: &Path) -> Outcome<()> {
    let mode = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(dir, mode).map_err(during("a directory"))
}

/// Bytes that a directory's files take on their file system.
pub fn allocated(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let sizes = entries.filter_map(Result::ok).filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(if meta.is_dir() { allocated(&entry.path()) } else { meta.blocks() * 512 })
    });
    sizes.sum()
}

# syntax=docker/dockerfile:1
# Weir as a small image: built with the full Rust image, run on a slim Debian by a user of its own.
#
#   docker build -t weir .
#   docker run -p 8080:8080 -v ./proxy.toml:/etc/weir/proxy.toml:ro weir
#
# Both base images are arguments, so that a mirror or a local base can stand in for them.
ARG BUILDER=docker.io/library/rust:1.95-bookworm
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BUILDER} AS build
WORKDIR /src

# The dependencies in a layer of their own: it is built again only when the manifest or the lock file changes.
# The workspace's other members are not built, but their manifests belong to the lock file.
COPY Cargo.toml Cargo.lock ./
COPY bench/coherence/Cargo.toml bench/coherence/
COPY bench/peers/Cargo.toml bench/peers/
COPY bench/rig/Cargo.toml bench/rig/
COPY tests/simulation/Cargo.toml tests/simulation/
RUN mkdir src bench/coherence/src bench/peers/src bench/rig/src \
    && touch tests/simulation/simulation.rs bench/rig/src/lib.rs \
    && echo 'fn main() {}' | tee bench/coherence/src/main.rs bench/peers/src/main.rs > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin weir \
    && rm -rf src target/release/weir target/release/deps/*weir* target/release/.fingerprint/weir-*

COPY src src
RUN cargo build --release --locked --bin weir

FROM ${BASE}
# Certificates for https:// backends, rediss:// and JWKS servers; nothing else is added.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin \
    && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin weir \
    && mkdir /etc/weir

COPY --from=build /src/target/release/weir /usr/local/bin/weir
COPY LICENSE /usr/share/doc/weir/LICENSE

USER 10001
WORKDIR /etc/weir
# Traffic on every address of the container; the admin listener stays on its loopback, where the health check
# finds it, until WEIR_ADMIN_LISTEN says otherwise.
ENV WEIR_LISTEN=0.0.0.0:8080
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["weir", "health"]
ENTRYPOINT ["weir"]
CMD ["-c", "/etc/weir/proxy.toml"]

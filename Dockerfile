# docker build -t weir . && docker run --rm -p 8080:8080 -v "$PWD/weir.toml:/etc/weir/weir.toml:ro" -v weir-state:/var/lib/weir weir

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin weir \
 && install -d -m 0700 /out/state \
 && cp target/release/weir /out/weir

FROM debian:bookworm-slim
# Upstreams behind TLS are verified against these unless the config names a CA.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /out/state /var/lib/weir
COPY --from=build /out/weir /usr/local/bin/weir
# The config is mounted read-only beside no writable folder, so the state has one of its own.
ENV WEIR__STATE_DIR=/var/lib/weir
VOLUME /var/lib/weir
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
# Asks the admin address: WEIR_ADMIN says where it is, and WEIR_TOKEN its token. A config without [admin] needs `--no-healthcheck`.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["weir", "status"]
ENTRYPOINT ["weir"]
CMD ["serve", "-c", "/etc/weir/weir.toml"]

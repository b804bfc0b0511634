# syntax=docker/dockerfile:1
# docker build -t fanfare .
# The image holds the binary, its libraries and root certificates: no shell, no package manager.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches are the builder's, not the image's: hence the copy at the end.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked -p fanfare \
    && cp target/dist/fanfare /fanfare

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="fanfare" \
      org.opencontainers.image.description="An SSE edge over a pluggable pub/sub broker" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /fanfare /usr/local/bin/fanfare
# By number: Kubernetes cannot tell that a name is not root.
USER 65532:65532
# public, admin. Inside a container the server must listen on all addresses, and then wants auth:
#   docker run -p 8080:8080 -e FANFARE_SERVER__LISTEN=0.0.0.0:8080 -e FANFARE_AUTH__JWT__SECRET=… fanfare
EXPOSE 8080 8081
# SIGTERM drains. No HEALTHCHECK: the admin listener has /healthz and /readyz for who asks.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/fanfare"]
CMD ["serve"]

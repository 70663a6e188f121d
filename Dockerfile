# The image is the static program and the certificates that it trusts: no shell,
# no package manager, nobody's home.
#
#   make image
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=v0.1.0 .

# The base that compiles may be another one: a mirror, or what stands on a machine without a registry.
ARG GO_IMAGE=docker.io/library/golang:1.26.8-alpine3.23@sha256:a8fa79c5bd40d880b52bd3b6d7669ecdcfd00e85facdd427d279efb5ddd79cb1

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY internal internal
COPY migrations migrations
ARG TARGETOS TARGETARCH
ARG VERSION=devel REVISION=unknown
# The same sources make the same bytes: no paths, no time, no repository.
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.version=${VERSION} -X main.revision=${REVISION}" -o /out/webhookd ./cmd/webhookd

FROM scratch
ARG VERSION=devel REVISION=unknown
LABEL org.opencontainers.image.title="webhookd" \
      org.opencontainers.image.description="Takes the webhooks of Stripe Identity into PostgreSQL" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/webhookd /webhookd
USER 65532:65532
EXPOSE 8080 9090
ENTRYPOINT ["/webhookd"]
CMD ["serve"]

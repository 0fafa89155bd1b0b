# The control plane with the agent beside it, for machines that Muster makes.
#
#   docker build -t muster .
#   docker run --env-file .env -p 8080:8080 -v muster-data:/data muster
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=container
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/ ./cmd/muster ./cmd/muster-agent \
 && mkdir /out/data

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/muster /out/muster-agent /usr/local/bin/
COPY --from=build --chown=nonroot:nonroot /out/data /data
ENV MUSTER_DATA_DIR=/data
WORKDIR /data
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/muster"]
CMD ["serve"]

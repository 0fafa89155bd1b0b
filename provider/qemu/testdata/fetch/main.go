// Command fetch asks for a URL, through a proxy if one is named, and prints the status
// and the beginning of the answer, or the error, in one line. BusyBox's wget needs
// files of a C library that a machine of the tests does not have.
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

func main() {
	transport := &http.Transport{}
	if len(os.Args) > 2 {
		proxy, err := url.Parse(os.Args[2])
		if err != nil {
			panic(err)
		}
		transport.Proxy = http.ProxyURL(proxy)
	}
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	res, err := client.Get(os.Args[1])
	if err != nil {
		fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300))
	fmt.Println(res.StatusCode, strings.ReplaceAll(string(text), "\n", " "))
}

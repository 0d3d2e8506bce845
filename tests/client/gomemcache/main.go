// What an application does with gomemcache; ends with an error at the first answer that is not what it should be.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

const patience = 30 * time.Second

func check(err, expected error, what string) {
	if !errors.Is(err, expected) {
		log.Fatalf("%s: %v instead of %v", what, err, expected)
	}
}

func equal[T comparable](found, expected T, what string) {
	if found != expected {
		log.Fatalf("%s: %v instead of %v", what, found, expected)
	}
}

func text(item *memcache.Item, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s/%d", item.Value, item.Flags)
}

func main() {
	log.SetFlags(0)
	client := memcache.New("127.0.0.1:" + os.Args[1])
	client.Timeout = patience
	check(client.Ping(), nil, "version")
	check(client.FlushAll(), nil, "flush_all")
	single(client)
	counted(client)
	many(client)
	check(client.Set(&memcache.Item{Key: "large", Value: []byte(strings.Repeat("x", 1_000_000))}), nil, "set of a large value")
	large, err := client.Get("large")
	check(err, nil, "get of a large value")
	equal(len(large.Value), 1_000_000, "length of a large value")
	expires(client)
	check(client.Close(), nil, "close")
}

func single(client *memcache.Client) {
	check(client.Set(&memcache.Item{Key: "key", Value: []byte("value"), Flags: 7, Expiration: 100}), nil, "set")
	equal(text(client.Get("key")), "value/7", "get")
	check(client.Add(&memcache.Item{Key: "key", Value: []byte("other")}), memcache.ErrNotStored, "add")
	check(client.Replace(&memcache.Item{Key: "none", Value: []byte("other")}), memcache.ErrNotStored, "replace")
	check(client.Append(&memcache.Item{Key: "key", Value: []byte("+")}), nil, "append")
	check(client.Prepend(&memcache.Item{Key: "key", Value: []byte("-")}), nil, "prepend")
	item, err := client.Get("key")
	check(err, nil, "gets")
	equal(string(item.Value), "-value+", "gets")
	item.Value = []byte("new")
	check(client.CompareAndSwap(item), nil, "cas")
	check(client.CompareAndSwap(item), memcache.ErrCASConflict, "cas of an old item")
	check(client.Touch("key", 50), nil, "touch")
	check(client.Touch("none", 50), memcache.ErrCacheMiss, "touch of nothing")
	equal(text(client.GetAndTouch("key", 50)), "new/7", "gat")
	check(client.Delete("key"), nil, "delete")
	check(client.Delete("key"), memcache.ErrCacheMiss, "delete of nothing")
	_, err = client.Get("key")
	check(err, memcache.ErrCacheMiss, "get of nothing")
}

func counted(client *memcache.Client) {
	check(client.Set(&memcache.Item{Key: "number", Value: []byte("007")}), nil, "set of a number")
	number, err := client.Increment("number", 3)
	check(err, nil, "incr")
	equal(number, 10, "incr")
	number, err = client.Decrement("number", 20)
	check(err, nil, "decr")
	equal(number, 0, "decr")
	_, err = client.Increment("none", 1)
	check(err, memcache.ErrCacheMiss, "incr of nothing")
}

func many(client *memcache.Client) {
	keys := []string{"none"}
	for n := range 100 {
		key := fmt.Sprintf("key%d", n)
		keys = append(keys, key)
		check(client.Set(&memcache.Item{Key: key, Value: []byte(strings.Repeat("x", n*50))}), nil, "set of many")
	}
	items, err := client.GetMulti(keys)
	check(err, nil, "get of many")
	equal(len(items), 100, "get of many")
	for n := range 100 {
		equal(len(items[fmt.Sprintf("key%d", n)].Value), n*50, "a value of many")
	}
}

func expires(client *memcache.Client) {
	check(client.Set(&memcache.Item{Key: "short", Value: []byte("lived"), Expiration: 1}), nil, "set")
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err := client.Get("short"); errors.Is(err, memcache.ErrCacheMiss) {
			return
		}
		if time.Now().After(end) {
			log.Fatal("an item outlives its time")
		}
	}
}

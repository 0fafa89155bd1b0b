# what: javac, a jar, and a run of it that asks whether a host is there
# needs: javac
## step: Build
mkdir -p j/x && cd j
printf 'package x;\npublic class Main { public static void main(String[] a) { System.out.println(42); try { java.net.InetAddress.getByName(\"127.0.0.1\").isReachable(200); } catch (java.io.IOException e) { throw new RuntimeException(e); } } }\n' > x/Main.java
javac -d classes x/Main.java && jar --create --file x.jar --main-class x.Main -C classes . && java -jar x.jar
